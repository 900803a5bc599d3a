"""chunk_<digest>.h5: the vectors of one chunk in row order, what EMBED_CHUNK hands to MERGE_CHUNKS.

    /sha256 (n, 32) uint8   of each row's sequence      /flags (n,) uint8      /offsets (n + 1,) int64  embedded residues before each row
    /representations/<layer>/mean | bos (n, D) float32     /representations/<layer>/per_tok (offsets[n], D) float32
    /contacts (m, 1) float32  the residues x residues matrices of rows that are not too long, row by row, end to end
    attrs: format, identity (JSON), chunk, provenance (JSON), failed (JSON: row -> reason), and those of seals.py
Rows that failed have no meaning in the vector datasets.
"""

import json
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Sequence, Union

import h5py
import numpy as np

from protembed.atomic import replacing
from protembed.checked_rows import CheckedRows
from protembed.consistency import check_rows
from protembed.errors import CorruptStore
from protembed.hdf5 import Place, create_contiguous, writing
from protembed.identity import Identity, chunk_name
from protembed.layout import CHUNK_FORMAT, CONTACTS, is_ragged, rows_of, vector_names
from protembed.seals import check_seal, damage_named, opened, seal

FILES_OF_A_CHUNK = 2  # that are open while its file is: HDF5's and ours


class RowVectors(NamedTuple):
    """Vectors of some rows of the chunk, as numpy arrays; the shapes are checkpoint.Batch's."""

    rows: np.ndarray
    flags: np.ndarray
    vectors: Dict[str, np.ndarray]


def starts_of(name: str, offsets: np.ndarray) -> np.ndarray:
    """(n + 1,) int64: where in a dataset each row begins that has offsets[i + 1] - offsets[i] embedded residues."""
    return np.concatenate([[0], np.cumsum(rows_of(name, np.diff(offsets)))])


class ChunkContent(NamedTuple):
    """All of a chunk file but its vectors."""

    identity: Identity
    digests: List[bytes]  # per row: SHA-256 of the sequence
    residues: Sequence[int]  # per row: how many are embedded
    width: int  # D
    failed: Dict[int, str]  # row -> reason
    provenance: Dict[str, str]  # torch, device, ...


def write_chunk_file(path: Path, content: ChunkContent, batches: Iterable[RowVectors]) -> None:
    """Create `path` durably and whole. Holds one batch in memory; AssertionError unless every good row came exactly once."""
    row_count = len(content.digests)
    offsets = np.concatenate([[0], np.cumsum(content.residues)]).astype(np.int64)
    names = vector_names(content.identity.repr_layers, content.identity.include)
    with replacing(path) as temporary:
        with writing(temporary, "w") as (file, _):
            file["sha256"] = np.frombuffer(b"".join(content.digests), np.uint8).reshape(-1, 32)
            file["offsets"] = offsets
            for name in names:
                length = int(rows_of(name, np.diff(offsets)).sum())
                create_contiguous(file, name, (length, 1 if name == CONTACTS else content.width), np.float32)
            places = {name: Place.of(file[name]) for name in names}
        flags, times_written = np.zeros(row_count, np.uint8), np.zeros(row_count, np.int64)
        with open(temporary, "r+b", buffering=0) as handle:
            for batch in batches:
                assert set(batch.vectors) == set(names), "a batch without all of the vectors, or with others"
                times_written[batch.rows] += 1
                flags[batch.rows] = batch.flags
                _write_rows(handle.fileno(), places, offsets, batch)
        times_written[list(content.failed)] += 1
        assert (times_written == 1).all(), "a row is missing or came twice"
        with writing(temporary, "r+") as (file, _):
            file["flags"] = flags
            seal(file, _attributes(content))


def _write_rows(descriptor: int, places: Dict[str, Place], offsets: np.ndarray, batch: RowVectors) -> None:
    for name, vectors in batch.vectors.items():
        starts, lengths = starts_of(name, offsets)[batch.rows], rows_of(name, np.diff(offsets)[batch.rows])
        assert len(vectors) == lengths.sum(), "not the vectors of these rows"
        for start, end, length in zip(starts.tolist(), np.cumsum(lengths).tolist(), lengths.tolist()):
            places[name].write(descriptor, start, vectors[end - length : end])


def _attributes(content: ChunkContent) -> Dict[str, str]:
    return dict(
        format=CHUNK_FORMAT,
        identity=content.identity.as_json(),
        chunk=chunk_name(content.digests),
        provenance=json.dumps(content.provenance),
        failed=json.dumps({str(row): reason for row, reason in sorted(content.failed.items())}),
    )


class ChunkFile:
    """A chunk file, open for reading."""

    def __init__(self, file: h5py.File, path: Path, descriptor: int):
        self._path = path
        self.chunk = str(file.attrs["chunk"])
        self.identity = Identity.from_json(file.attrs["identity"])
        self.names = vector_names(self.identity.repr_layers, self.identity.include)
        self.provenance: Dict[str, str] = json.loads(file.attrs["provenance"])
        self.failed = {int(row): reason for row, reason in json.loads(file.attrs["failed"]).items()}
        self.digests = file["sha256"][:]
        self.flags = file["flags"][:]
        self.offsets = file["offsets"][:]
        self._vectors = {name: CheckedRows(file[name], descriptor) for name in self.names}

    def __len__(self) -> int:
        return len(self.digests)

    @cached_property
    def _starts(self) -> Dict[str, np.ndarray]:
        return {name: starts_of(name, self.offsets) for name in self.names if is_ragged(name)}

    def check_vectors(self) -> None:
        """Read what vectors() has not; CorruptStore when a dataset is not what its checksum says."""
        with damage_named(self._path):
            for rows in self._vectors.values():
                rows.check(self._path.name)

    def width(self, name: str) -> int:
        """D of a vector dataset."""
        return self._vectors[name].width

    def vectors(self, name: str, rows: Union[np.ndarray, Sequence[int]]) -> np.ndarray:
        """(len(rows), D) for mean and bos, rows in any order and repeated as asked; all that is theirs for per_tok and contacts.

        Of a file that was opened with vectors_later, they are good only once check_vectors() has returned.
        """
        rows, starts, stored = np.asarray(rows), self._starts.get(name), self._vectors[name]
        first, end = (rows, rows + 1) if starts is None else (starts[rows], starts[rows + 1])
        out = np.empty((int((end - first).sum()), stored.width), stored.dtype)
        borders = [0, *(np.flatnonzero(first[1:] != end[:-1]) + 1).tolist(), len(rows)]
        filled = 0
        with damage_named(self._path):
            for run, stop in zip(borders, borders[1:]):  # of rows that stand one behind the other
                count = int(end[stop - 1] - first[run])
                stored.read(int(first[run]), out[filled : filled + count])
                filled += count
        return out


@contextmanager
def open_chunk_file(path: Path, vectors_later: bool = False) -> Iterator[ChunkFile]:
    """Open and verify a chunk file: finished, every dataset as its checksum says, and named by what it holds.

    vectors_later: the caller will have check_vectors() say whether those it read are good. CorruptStore says which dataset is damaged.
    """
    with opened(path, CHUNK_FORMAT) as file, open(path, "rb", buffering=0) as handle:
        with damage_named(path):
            chunk = ChunkFile(file, path, handle.fileno())
            check_seal(file, path.name, chunk.names if vectors_later else ())
            check_rows(file, len(chunk), chunk.names, path.name)
        if chunk_name([chunk.digests.tobytes()]) != chunk.chunk:
            raise CorruptStore(f"{path.name} does not hold the sequences that its name {chunk.chunk} stands for")
        yield chunk
