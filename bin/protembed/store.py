"""embeddings.h5, format 1.0: writing it record by record, and judging a finished one.

    /sequence_ids  (N,) utf-8     input order, one per embedded record
    /samples       (N,) utf-8     of the samplesheet, when there was one
    /embeddings    (N, D)         hard link to the first layer's mean, when mean is included
    /lengths       (N,) int32     residues of the record          /flags (N,) uint8, layout.Flag
    /sha256        (N, 32) uint8  of the canonical sequence
    /offsets       (N + 1,) int64 embedded residues before each record, when per_tok is included
    /representations/<layer>/mean | bos (N, D)     /representations/<layer>/per_tok (offsets[N], D)
    /contacts (contact_offsets[N], 1), /contact_offsets (N + 1,) int64: each record's residues x residues matrix, row by row
    attrs: format, run attributes, and those of seals.py
Datasets are contiguous and uncompressed unless Form says otherwise: one row is one read, and numpy can map them.
"""

from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, NamedTuple, Sequence, Tuple

import h5py
import numpy as np

from protembed.atomic import replacing
from protembed.consistency import check_whole
from protembed.errors import BadOption
from protembed.hdf5 import create_compressed, create_contiguous, writing
from protembed.layout import CONTACTS, FORMAT, is_per_residue, is_ragged, offsets_name, rows_of
from protembed.seals import damage_named, opened, seal

ROWS_READ_BACK = 65536


class Form(NamedTuple):
    """How vectors lie in the file."""

    dtype: str = "float32"  # or float16
    compression: str = "none"  # or gzip, lzf: see hdf5.create_compressed

    def create(self, file: h5py.File, name: str, shape: Tuple[int, int]) -> None:
        """The dataset of one kind of vectors."""
        if self.compression == "none" or not shape[0]:
            create_contiguous(file, name, shape, self.dtype)
        else:
            create_compressed(file, name, shape, self.dtype, self.compression)


class RecordBlock(NamedTuple):
    """Some consecutive records and their vectors."""

    ids: Sequence[str]
    samples: Sequence[str]
    lengths: np.ndarray  # (B,) int32
    flags: np.ndarray  # (B,) uint8
    digests: np.ndarray  # (B, 32) uint8
    residues: np.ndarray  # (B,) int64, embedded
    vectors: Dict[str, np.ndarray]  # by layout.vector_name: (B, D), per_tok (sum of residues, D)


class Sizes(NamedTuple):
    """What a file will hold."""

    records: int
    residues: int  # embedded
    pairs: int  # of residues, of which contacts are kept
    widths: Dict[str, int]  # vector dataset name -> D
    has_samples: bool


class EmbeddingsWriter:
    """Appends blocks of records to a file whose size is known; memory does not depend on it."""

    def __init__(self, file: h5py.File, raise_fault: Callable[[], None], sizes: Sizes, form: Form):
        records, residues, pairs, widths, has_samples = sizes
        self._file, self._raise_fault, self._records, self._names = file, raise_fault, records, list(widths)
        self._next, self._filled = 0, dict.fromkeys(widths, 0)  # rows written
        self._form = form
        self._offsets = {offsets_name(name): name for name in widths if is_ragged(name)}
        self._columns = ["sequence_ids", "samples"] if has_samples else ["sequence_ids"]
        for column in self._columns:
            file.create_dataset(column, (records,), dtype=h5py.string_dtype("utf-8"))
        create_contiguous(file, "lengths", (records,), np.int32)
        create_contiguous(file, "flags", (records,), np.uint8)
        create_contiguous(file, "sha256", (records, 32), np.uint8)
        for column in self._offsets:
            create_contiguous(file, column, (records + 1,), np.int64)
            file[column][0] = 0
        for name, width in widths.items():
            form.create(file, name, (pairs if name == CONTACTS else residues if is_per_residue(name) else records, width))
        means = [name for name in widths if name.endswith("/mean")]
        if means:
            file["embeddings"] = file[means[0]]

    def append(self, block: RecordBlock) -> None:
        """Write the next records."""
        here = slice(self._next, self._next + len(block.ids))
        for column, words in zip(self._columns, (block.ids, block.samples)):
            self._file[column][here] = np.array(words, dtype=object)
        self._file["lengths"][here] = block.lengths
        self._file["flags"][here] = block.flags
        self._file["sha256"][here] = block.digests
        for column, name in self._offsets.items():
            self._file[column][here.start + 1 : here.stop + 1] = self._filled[name] + np.cumsum(rows_of(name, block.residues))
        for name in self._names:
            place = slice(self._filled[name], self._filled[name] + int(rows_of(name, block.residues).sum()))
            if place.stop > place.start:
                self._file[name][place] = self._rounded(name, block)
            self._filled[name] = place.stop
        self._next = here.stop
        self._raise_fault()

    def _rounded(self, name: str, block: RecordBlock) -> np.ndarray:
        vectors = block.vectors[name]
        if self._form.dtype == vectors.dtype:
            return vectors
        with np.errstate(over="ignore"):
            rounded = vectors.astype(self._form.dtype)
        beyond = np.flatnonzero(~np.isfinite(rounded).all(axis=1))
        if len(beyond):
            record = block.ids[np.searchsorted(np.cumsum(rows_of(name, block.residues)), beyond[0], "right")]
            most = vectors[beyond[0]][~np.isfinite(rounded[beyond[0]])][0]
            raise BadOption(f"{record} has the number {most:g} in {name}, which {self._form.dtype} cannot hold; use --store_dtype float32")
        return rounded

    def written(self) -> Iterator[Tuple[str, bytes]]:
        """(id, digest) of every row, read back from the file."""
        for start in range(0, self._records, ROWS_READ_BACK):
            rows = slice(start, min(start + ROWS_READ_BACK, self._records))
            digests = self._file["sha256"][rows]
            yield from zip(self._file["sequence_ids"].asstr()[rows], map(bytes, digests))

    def finish(self, attributes: Dict[str, object]) -> None:
        """Write the attributes; `complete` comes last."""
        assert self._next == self._records, f"{self._next} records written of {self._records}"
        seal(self._file, dict(attributes, format=FORMAT))


@contextmanager
def creating_embeddings(path: Path, sizes: Sizes, form: Form) -> Iterator[EmbeddingsWriter]:
    """Yield a writer; `path` appears, durable and whole, when the block ends well. sizes: of all that will be appended."""
    with replacing(path) as temporary, writing(temporary, "w") as (file, raise_fault):
        yield EmbeddingsWriter(file, raise_fault, sizes, form)


def check_embeddings(path: Path) -> Dict[str, object]:
    """Read a whole embeddings.h5 and return its attributes; CorruptStore, ForeignFile or Incomplete says what is wrong with it."""
    with opened(path, FORMAT) as file, damage_named(path):
        check_whole(file, path.name)
        return dict(file.attrs)
