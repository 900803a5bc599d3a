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
from functools import partial
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Mapping, NamedTuple, Optional, Protocol, Tuple

import h5py
import numpy as np

from protembed.atomic import replacing
from protembed.consistency import check_whole
from protembed.hdf5 import create_contiguous, writing
from protembed.layout import CONTACTS, FORMAT, is_per_residue, is_ragged, offsets_name, rows_of
from protembed.ledger import Coverage
from protembed.records import RecordBlock
from protembed.seals import checksum_of, damage_named, opened, seal
from protembed.vector_datasets import Form, Part, create_elsewhere

Append = Callable[[RecordBlock], object]


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


class Worker(Protocol):
    """A filling.Filler, here or elsewhere: see beside.py."""

    def tell(self, method: str, *arguments: object) -> None: ...

    def ask(self, method: str, *arguments: object) -> Any: ...


class EmbeddingsWriter:
    """Appends blocks of records to a file whose size is known; memory does not depend on it.

    append_vectors, checksums: have the vectors of records appended to the file's datasets, and finished, by someone else.
    """

    def __init__(self, file: h5py.File, raise_fault: Callable[[], None], sizes: Sizes, append_vectors: Append, checksums: Callable[[], Dict[str, str]]):
        self._file, self._raise_fault, self.records = file, raise_fault, sizes.records
        self._append_vectors, self._checksums = append_vectors, checksums
        self._next = 0
        self._offsets = {offsets_name(name): name for name in sizes.widths if is_ragged(name)}
        self._columns = ["sequence_ids", "samples"] if sizes.has_samples else ["sequence_ids"]
        for column in self._columns:
            file.create_dataset(column, (sizes.records,), dtype=h5py.string_dtype("utf-8"))
        create_contiguous(file, "lengths", (sizes.records,), np.int32)
        create_contiguous(file, "flags", (sizes.records,), np.uint8)
        create_contiguous(file, "sha256", (sizes.records, 32), np.uint8)
        for column in self._offsets:
            create_contiguous(file, column, (sizes.records + 1,), np.int64)[0] = 0
        if means := [name for name in sizes.widths if name.endswith("/mean")]:
            file["embeddings"] = file[means[0]]

    def append(self, block: RecordBlock) -> None:
        """Write the next records. Raises OSError when the disk has failed so far, and what came of vectors before."""
        self._append_vectors(block)  # first: who fills works meanwhile
        here = slice(self._next, self._next + len(block.ids))
        for column, words in zip(self._columns, (block.ids, block.samples)):
            self._file[column][here] = np.array(words, dtype=object)
        self._file["lengths"][here] = block.lengths
        self._file["flags"][here] = block.flags
        self._file["sha256"][here] = block.digests
        for column, name in self._offsets.items():
            self._file[column][here.start + 1 : here.stop + 1] = self._file[column][here.start] + np.cumsum(rows_of(name, block.residues))
        self._next = here.stop
        self._raise_fault()

    @property
    def room(self) -> int:
        """Records that are still to come."""
        return self.records - self._next

    def finish(self, attributes: Dict[str, object]) -> Coverage:
        """Write the attributes; `complete` comes last. Returns what the finished file covers, read back. Raises as append does."""
        assert self.room == 0, f"{self._next} records written of {self.records}"
        ids, digests = hashlib.sha256(), hashlib.sha256()
        checksums = {"sequence_ids": checksum_of(self._file["sequence_ids"], ids), "sha256": checksum_of(self._file["sha256"], digests)}
        checksums.update(self._checksums())
        seal(self._file, dict(attributes, format=FORMAT), checksums)
        return Coverage(ids.hexdigest(), digests.hexdigest())

    @property
    def content_sha256(self) -> str:
        """Of the finished file."""
        return str(self._file.attrs["content_sha256"])


@contextmanager
def creating_embeddings(path: Path, sizes: Sizes, form: Form, filler: Worker) -> Iterator[EmbeddingsWriter]:
    """Yield a writer; `path` appears, durable and whole, when the block ends well.

    sizes: of all that will be appended. filler: fills the vector datasets; one that is elsewhere cannot fill compressed ones.
    """
    with replacing(path) as temporary, writing(temporary, "w") as (file, raise_fault):
        filler.tell("begin", temporary, {name: form.create(file, name, sizes.shape(name)) for name in sizes.widths})
        yield EmbeddingsWriter(file, raise_fault, sizes, partial(filler.tell, "append"), partial(filler.ask, "finish"))


@contextmanager
def creating_shards(
    path: Path, sizes: Sizes, form: Form, filler: Worker, shards: Mapping[str, Sizes], attributes: Dict[str, object]
) -> Iterator["ShardedWriter"]:
    """The same in shards, name -> what it holds: each appears when it is full, with `attributes`, and `path`, their index, last of all."""

    def create(name: str) -> ContextManager[EmbeddingsWriter]:
        return creating_embeddings(path.with_name(name), shards[name], form, filler)

    with replacing(path) as temporary, writing(temporary, "w") as (file, raise_fault), ExitStack() as unfinished:
        for name in sizes.widths:
            create_elsewhere(file, name, sizes.shape(name), form.dtype, [Part(shard, its.shape(name)[0]) for shard, its in shards.items()])
        index = EmbeddingsWriter(file, raise_fault, sizes, lambda block: None, partial(filler.ask, "finish_whole"))
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
