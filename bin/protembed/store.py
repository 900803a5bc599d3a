"""embeddings.h5, format 1.0: writing it record by record, and judging a finished one.

    /sequence_ids  (N,) utf-8     input order, one per embedded record
    /samples       (N,) utf-8     of the samplesheet, when there was one
    /embeddings    (N, D)         hard link to the first layer's mean, when mean is included
    /lengths       (N,) int32     residues of the record          /flags (N,) uint8, layout.Flag
    /sha256        (N, 32) uint8  of the canonical sequence
    /offsets       (N + 1,) int64 embedded residues before each record, when per_tok is included
    /representations/<layer>/mean | bos (N, D)     /representations/<layer>/per_tok (offsets[N], D)
    attrs: format, run attributes, and those of seals.py
Datasets are contiguous and uncompressed unless Form says otherwise: one row is one read, and numpy can map them.
"""

from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, NamedTuple, Sequence, Tuple

import h5py
import numpy as np

from protembed.atomic import replacing
from protembed.consistency import check_records
from protembed.errors import BadOption
from protembed.hdf5 import create_compressed, create_contiguous, writing
from protembed.layout import FORMAT, is_per_residue
from protembed.seals import check_seal, damage_named, opened, seal

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
    widths: Dict[str, int]  # vector dataset name -> D
    has_samples: bool


class EmbeddingsWriter:
    """Appends blocks of records to a file whose size is known; memory does not depend on it."""

    def __init__(self, file: h5py.File, raise_fault: Callable[[], None], sizes: Sizes, form: Form):
        records, residues, widths, has_samples = sizes
        self._file, self._raise_fault, self._records, self._names = file, raise_fault, records, list(widths)
        self._next = self._next_residue = 0
        self._form = form
        self._per_residue = [name for name in widths if is_per_residue(name)]
        self._columns = ["sequence_ids", "samples"] if has_samples else ["sequence_ids"]
        for column in self._columns:
            file.create_dataset(column, (records,), dtype=h5py.string_dtype("utf-8"))
        create_contiguous(file, "lengths", (records,), np.int32)
        create_contiguous(file, "flags", (records,), np.uint8)
        create_contiguous(file, "sha256", (records, 32), np.uint8)
        if self._per_residue:
            create_contiguous(file, "offsets", (records + 1,), np.int64)
            file["offsets"][0] = 0
        for name, width in widths.items():
            form.create(file, name, (residues if is_per_residue(name) else records, width))
        means = [name for name in widths if name.endswith("/mean")]
        if means:
            file["embeddings"] = file[means[0]]

    def append(self, block: RecordBlock) -> None:
        """Write the next records."""
        here = slice(self._next, self._next + len(block.ids))
        ends = self._next_residue + np.cumsum(block.residues)
        for column, words in zip(self._columns, (block.ids, block.samples)):
            self._file[column][here] = np.array(words, dtype=object)
        self._file["lengths"][here] = block.lengths
        self._file["flags"][here] = block.flags
        self._file["sha256"][here] = block.digests
        if self._per_residue:
            self._file["offsets"][here.start + 1 : here.stop + 1] = ends
        for name in self._names:
            place = slice(self._next_residue, int(ends[-1])) if is_per_residue(name) else here
            self._file[name][place] = self._rounded(name, block)
        self._next, self._next_residue = here.stop, int(ends[-1])
        self._raise_fault()

    def _rounded(self, name: str, block: RecordBlock) -> np.ndarray:
        vectors = block.vectors[name]
        if self._form.dtype == vectors.dtype:
            return vectors
        with np.errstate(over="ignore"):
            rounded = vectors.astype(self._form.dtype)
        beyond = np.flatnonzero(~np.isfinite(rounded).all(axis=1))
        if len(beyond):
            record = block.ids[np.searchsorted(np.cumsum(block.residues), beyond[0], "right") if is_per_residue(name) else beyond[0]]
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
        check_seal(file, path.name)
        check_records(file, path.name)
        return dict(file.attrs)
