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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, ContextManager, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import h5py
import numpy as np
from xxhash import xxh3_128

from protembed.atomic import replacing
from protembed.consistency import check_whole
from protembed.hdf5 import create_contiguous, writing
from protembed.layout import CONTACTS, FORMAT, is_per_residue, is_ragged, offsets_name, rows_of
from protembed.ledger import Coverage
from protembed.records import RecordBlock
from protembed.rounding import rounded
from protembed.seals import checksum_of, damage_named, opened, seal
from protembed.vector_rows import CountedRows, Form, Part, Source, Threads, VectorRows, putting, rows_elsewhere


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

    def __init__(self, file: h5py.File, raise_fault: Callable[[], None], sizes: Sizes, source: Source, create: Callable[[str], CountedRows]):
        self._file, self._raise_fault, self._source, self.records = file, raise_fault, source, sizes.records
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
        self.vectors = {name: create(name) for name in sizes.widths}
        means = [name for name in sizes.widths if name.endswith("/mean")]
        if means:
            file["embeddings"] = file[means[0]]

    def append(self, block: RecordBlock) -> None:
        """Write the next records, whose vectors the source gives. Raises what came of vectors before: OSError, BadOption, what the source raised."""
        here = slice(self._next, self._next + len(block.ids))
        for column, words in zip(self._columns, (block.ids, block.samples)):
            self._file[column][here] = np.array(words, dtype=object)
        self._file["lengths"][here] = block.lengths
        self._file["flags"][here] = block.flags
        self._file["sha256"][here] = block.digests
        for column, name in self._offsets.items():
            self._file[column][here.start + 1 : here.stop + 1] = self.vectors[name].filled + np.cumsum(rows_of(name, block.residues))
        for name, rows in self.vectors.items():
            rows.append(rounded(self._source.pieces(block, name), rows.dtype, name, block), int(rows_of(name, block.residues).sum()))
        self._next = here.stop
        self._raise_fault()

    @property
    def room(self) -> int:
        """Records that are still to come."""
        return self.records - self._next

    def finish(self, attributes: Dict[str, object]) -> Coverage:
        """Write the attributes; `complete` comes last. Returns what the finished file covers, read back. Raises as append does, and what check_used does."""
        assert self.room == 0, f"{self._next} records written of {self.records}"
        ids, digests = hashlib.sha256(), hashlib.sha256()
        checksums = {"sequence_ids": checksum_of(self._file["sequence_ids"], ids), "sha256": checksum_of(self._file["sha256"], digests)}
        checksums.update({name: rows.checksum() for name, rows in self.vectors.items()})
        self._source.check_used()
        seal(self._file, dict(attributes, format=FORMAT), checksums)
        return Coverage(ids.hexdigest(), digests.hexdigest())

    @property
    def content_sha256(self) -> str:
        """Of the finished file."""
        return str(self._file.attrs["content_sha256"])


@contextmanager
def creating_embeddings(
    path: Path, sizes: Sizes, form: Form, source: Source, shards: Optional[Mapping[str, Sizes]] = None, also: Mapping[str, xxh3_128] = {}
) -> Iterator[EmbeddingsWriter]:
    """Yield a writer; `path` appears, durable and whole, when the block ends well. sizes: of all that will be appended.

    shards: names of the files beside it that hold the vectors, in order; none: it holds them itself. also: of each vector dataset,
    a digest that goes over its rows, too.
    """
    with (
        replacing(path) as temporary,
        writing(temporary, "w") as (file, raise_fault),
        open(temporary, "r+b", buffering=0) as handle,
        Threads() as threads,
    ):

        def create(name: str) -> CountedRows:
            shape = sizes.shape(name)
            if shards is not None:
                return rows_elsewhere(file, name, shape, form.dtype, [Part(shard, its.shape(name)[0]) for shard, its in shards.items()])
            put = putting(file, name, shape, form, handle.fileno())
            return VectorRows(shape, form.dtype, put, threads, source.check_used, [also[name]] if also else [])

        yield EmbeddingsWriter(file, raise_fault, sizes, source, create)


@contextmanager
def creating_shards(
    path: Path, sizes: Sizes, form: Form, source: Source, shards: Mapping[str, Sizes], attributes: Dict[str, object]
) -> Iterator["ShardedWriter"]:
    """The same, and the shards too: each appears when it is full, with `attributes`, and `path` last of all."""
    with creating_embeddings(path, sizes, form, source, shards) as index, ExitStack() as unfinished:
        digests = {name: rows.digest for name, rows in index.vectors.items()}

        def create(name: str) -> ContextManager[EmbeddingsWriter]:
            return creating_embeddings(path.with_name(name), shards[name], form, source, also=digests)

        yield ShardedWriter(index, list(shards), create, attributes, unfinished)


class ShardedWriter:
    """An EmbeddingsWriter of an index and its shards."""

    def __init__(
        self, index: EmbeddingsWriter, names: List[str], create: Callable[[str], ContextManager[EmbeddingsWriter]], attributes: dict, unfinished: ExitStack
    ):
        self._index, self._names, self._create, self._attributes, self._unfinished = index, names, create, attributes, unfinished
        self._shard: Optional[EmbeddingsWriter] = None
        self._contents: Dict[str, str] = {}  # of full ones: name -> content_sha256

    def append(self, block: RecordBlock) -> None:
        """Write the next records."""
        done = 0
        while done < len(block.ids):
            if self._shard is None:
                self._shard = self._unfinished.enter_context(self._create(self._names[len(self._contents)]))
            part = block.some(slice(done, done + self._shard.room))
            self._shard.append(part)
            self._index.append(part)
            done += len(part.ids)
            if not self._shard.room:
                self._close_shard(self._shard)

    def _close_shard(self, shard: EmbeddingsWriter) -> None:
        own = dict(n_records=shard.records, n_embedded=shard.records, n_skipped=0, shard=len(self._contents) + 1, shards=len(self._names))
        shard.finish({**self._attributes, **own})
        self._contents[self._names[len(self._contents)]] = shard.content_sha256
        self._unfinished.close()
        self._shard = None

    def finish(self, attributes: Dict[str, object]) -> Coverage:
        """Write the attributes of the index; as EmbeddingsWriter's."""
        return self._index.finish(dict(attributes, shards=len(self._names), shard_files=json.dumps(self._contents)))


def check_embeddings(path: Path) -> Dict[str, object]:
    """Read a whole embeddings.h5 and return its attributes; CorruptStore, ForeignFile or Incomplete says what is wrong with it."""
    with opened(path, FORMAT) as file, damage_named(path):
        check_whole(file, path.name)
        return dict(file.attrs)
