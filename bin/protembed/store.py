"""embeddings.h5, format 1.0: writing it block by block, alone or with its vectors in shards, and judging a finished one.

    /sequence_ids  (N,) utf-8     input order, one per embedded record
    /samples       (N,) utf-8     of the samplesheet, when there was one
    /embeddings    (N, D)         hard link to the lowest layer's mean, when mean is included
    /lengths       (N,) int32     residues of the record          /flags (N,) uint8, layout.Flag
    /sha256        (N, 32) uint8  of the canonical sequence
    /offsets       (N + 1,) int64 embedded residues before each record, when per_tok is included
    /representations/<layer>/mean | bos (N, D)     /representations/<layer>/per_tok (offsets[N], D)
    /contacts (contact_offsets[N], 1), /contact_offsets (N + 1,) int64: each record's residues x residues matrix, row by row
    attrs: format, run attributes, and those of seals.py
Datasets are contiguous and uncompressed unless Form says otherwise: one row is one read, and numpy can map them.
In shards, each is such a file of consecutive records (attrs shard, shards), and embeddings.h5 has all of the above with virtual
datasets of vectors, whose rows stand in them (attr shard_files: JSON, name -> content_sha256).
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

import h5py
import numpy as np

from protembed.atomic import replacing
from protembed.consistency import check_whole
from protembed.errors import BadOption
from protembed.hdf5 import create_contiguous, writing
from protembed.layout import CONTACTS, FORMAT, is_per_residue, is_ragged, offsets_name, rows_of
from protembed.ledger import Coverage
from protembed.records import RecordBlock
from protembed.seals import blocks_of, damage_named, opened, seal
from protembed.vector_rows import Form, Part, VectorRows, rows_elsewhere, rows_in_file


class Sizes(NamedTuple):
    """What a file will hold."""

    records: int
    residues: int  # embedded
    pairs: int  # of residues, of which contacts are kept
    widths: Dict[str, int]  # vector dataset name -> D
    has_samples: bool

    def shape(self, name: str) -> Tuple[int, int]:
        """Of a vector dataset."""
        return self.pairs if name == CONTACTS else self.residues if is_per_residue(name) else self.records, self.widths[name]


class EmbeddingsWriter:
    """Appends blocks of records to a file whose size is known; memory does not depend on it."""

    def __init__(self, file: h5py.File, raise_fault: Callable[[], None], sizes: Sizes, form: Form, create: Callable[[str], VectorRows]):
        self._file, self._raise_fault, self._form, self.records = file, raise_fault, form, sizes.records
        self._next = 0
        self._offsets = {offsets_name(name): name for name in sizes.widths if is_ragged(name)}
        self._columns = ["sequence_ids", "samples"] if sizes.has_samples else ["sequence_ids"]
        for column in self._columns:
            file.create_dataset(column, (sizes.records,), dtype=h5py.string_dtype("utf-8"))
        create_contiguous(file, "lengths", (sizes.records,), np.int32)
        create_contiguous(file, "flags", (sizes.records,), np.uint8)
        create_contiguous(file, "sha256", (sizes.records, 32), np.uint8)
        for column in self._offsets:
            create_contiguous(file, column, (sizes.records + 1,), np.int64)
            file[column][0] = 0
        self._vectors = {name: create(name) for name in sizes.widths}
        means = [name for name in sizes.widths if name.endswith("/mean")]
        if means:
            file["embeddings"] = file[means[0]]

    def append(self, block: RecordBlock) -> None:
        """Write the next records; BadOption names one with a number that the file's type cannot hold."""
        block = rounded(block, self._form.dtype)
        here = slice(self._next, self._next + len(block.ids))
        for column, words in zip(self._columns, (block.ids, block.samples)):
            self._file[column][here] = np.array(words, dtype=object)
        self._file["lengths"][here] = block.lengths
        self._file["flags"][here] = block.flags
        self._file["sha256"][here] = block.digests
        for column, name in self._offsets.items():
            self._file[column][here.start + 1 : here.stop + 1] = self._vectors[name].filled + np.cumsum(rows_of(name, block.residues))
        for name, rows in self._vectors.items():
            rows.append(block.vectors[name])
        self._next = here.stop
        self._raise_fault()

    def coverage(self) -> Coverage:
        """Of the finished file, read back."""
        ids, digests = hashlib.sha256(), hashlib.sha256()
        for names in blocks_of(self._file["sequence_ids"]):
            ids.update(b"\n".join([*names.tolist(), b""]))
        for block in blocks_of(self._file["sha256"]):
            digests.update(block.data)
        return Coverage(ids.hexdigest(), digests.hexdigest())

    @property
    def room(self) -> int:
        """Records that are still to come."""
        return self.records - self._next

    def finish(self, attributes: Dict[str, object]) -> str:
        """Write the attributes; `complete` comes last. Returns content_sha256."""
        assert self.room == 0, f"{self._next} records written of {self.records}"
        return seal(self._file, dict(attributes, format=FORMAT), {name: rows.checksum() for name, rows in self._vectors.items()})


def rounded(block: RecordBlock, dtype: str) -> RecordBlock:
    """The block with all vectors in this type; BadOption names the first record with a number that the type cannot hold."""
    return block._replace(vectors={name: [_in_type(piece, dtype, name, block) for piece in pieces] for name, pieces in block.vectors.items()})


def _in_type(piece: np.ndarray, dtype: str, name: str, block: RecordBlock) -> np.ndarray:
    if piece.dtype == dtype:
        return piece
    with np.errstate(over="ignore"):
        result = piece.astype(dtype)
    if not np.isfinite(result).all():
        whole = np.concatenate(block.vectors[name])
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(whole.astype(dtype))
        first = int(np.flatnonzero(bad.any(axis=1))[0])
        record = block.ids[int(np.searchsorted(np.cumsum(rows_of(name, block.residues)), first, "right"))]
        raise BadOption(f"{record} has the number {whole[first][bad[first]][0]:g} in {name}, which {dtype} cannot hold; use --store_dtype float32")
    return result


@contextmanager
def creating_embeddings(path: Path, sizes: Sizes, form: Form, shards: Optional[Mapping[str, Sizes]] = None) -> Iterator[EmbeddingsWriter]:
    """Yield a writer; `path` appears, durable and whole, when the block ends well. sizes: of all that will be appended.

    shards: names of the files beside it that hold the vectors, in order; none: it holds them itself.
    """
    with (
        replacing(path) as temporary,
        writing(temporary, "w") as (file, raise_fault),
        open(temporary, "r+b", buffering=0) as handle,
        ThreadPoolExecutor(1) as beside,
    ):

        def create(name: str) -> VectorRows:
            if shards is None:
                return rows_in_file(file, name, sizes.shape(name), form, handle.fileno(), beside)
            parts = [Part(shard, its.shape(name)[0]) for shard, its in shards.items()]
            return rows_elsewhere(file, name, sizes.shape(name), form.dtype, parts, beside)

        yield EmbeddingsWriter(file, raise_fault, sizes, form, create)


@contextmanager
def creating_shards(path: Path, sizes: Sizes, form: Form, shards: Mapping[str, Sizes], attributes: Dict[str, object]) -> Iterator["ShardedWriter"]:
    """The same, and the shards too: each appears when it is full, with `attributes`, and `path` last of all."""
    with creating_embeddings(path, sizes, form, shards) as index, ExitStack() as unfinished:
        yield ShardedWriter(path.parent, index, form, shards, attributes, unfinished)


class ShardedWriter:
    """An EmbeddingsWriter of an index and its shards. No block may reach over the end of a shard."""

    def __init__(self, folder: Path, index: EmbeddingsWriter, form: Form, shards: Mapping[str, Sizes], attributes: Dict[str, object], unfinished: ExitStack):
        self._folder, self._index, self._form, self._shards, self._attributes = folder, index, form, shards, attributes
        self._unfinished, self._coming = unfinished, iter(shards.items())
        self._shard: Optional[EmbeddingsWriter] = None
        self._contents: Dict[str, str] = {}  # of full ones: name -> content_sha256

    def append(self, block: RecordBlock) -> None:
        """Write the next records."""
        if self._shard is None:
            self._name, sizes = next(self._coming)
            self._shard = self._unfinished.enter_context(creating_embeddings(self._folder / self._name, sizes, self._form))
        block = rounded(block, self._form.dtype)  # once for both
        self._shard.append(block)
        self._index.append(block)
        if not self._shard.room:
            own = dict(n_records=self._shard.records, n_embedded=self._shard.records, n_skipped=0, shard=len(self._contents) + 1, shards=len(self._shards))
            self._contents[self._name] = self._shard.finish({**self._attributes, **own})
            self._unfinished.close()
            self._shard = None

    @property
    def room(self) -> int:
        """Records that are still to come."""
        return self._index.room

    def coverage(self) -> Coverage:
        """Of the finished index, read back."""
        return self._index.coverage()

    def finish(self, attributes: Dict[str, object]) -> None:
        """Write the attributes of the index."""
        self._index.finish(dict(attributes, shards=len(self._shards), shard_files=json.dumps(self._contents)))


def check_embeddings(path: Path) -> Dict[str, object]:
    """Read a whole embeddings.h5 and return its attributes; CorruptStore, ForeignFile or Incomplete says what is wrong with it."""
    with opened(path, FORMAT) as file, damage_named(path):
        check_whole(file, path.name)
        return dict(file.attrs)
