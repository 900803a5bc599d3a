"""Which file holds each record's vector: looked up, compared by digest, and gathered in the order of the input."""

from itertools import repeat
from typing import Dict, Iterable, Iterator, List, Mapping, Protocol, Set

import numpy as np

from protembed.errors import BadInput, ForeignFile, Incomplete
from protembed.identity import Identity, differences
from protembed.layout import CONTACTS, OF_VECTORS, Flag, rows_of, vector_names
from protembed.ledger import MOST_SHOWN, Outcomes, missing_contacts, status_of
from protembed.records import NOTHING, RecordBlock, RecordColumns
from protembed.windows import cut_in_words

PIECE_BYTES = 1 << 19  # of vectors that are read, hashed and written while they are in the processor's caches
STATUSES = list(map(status_of, range(256)))


class VectorFile(Protocol):
    """What the merge asks of a chunk file or an earlier embeddings.h5: see chunk_file.ChunkFile and reading.Embeddings."""

    identity: Identity
    failed: Dict[int, str]

    def __len__(self) -> int: ...

    @property
    def digests(self) -> np.ndarray: ...

    @property
    def flags(self) -> np.ndarray: ...

    @property
    def offsets(self) -> np.ndarray: ...

    def check_vectors(self) -> None: ...

    def width(self, name: str) -> int: ...

    def vectors(self, name: str, rows: np.ndarray) -> np.ndarray: ...


class VectorFiles:
    """The files of one run by the name that records.tsv gives them.

    failures: chunk -> row -> reason, of chunks without a file, because a sequence of theirs failed.
    """

    def __init__(self, files: Mapping[str, VectorFile], failures: Mapping[str, Mapping[int, str]]):
        self.by_name, self._failures = files, failures
        self._code = {name: code for code, name in enumerate(files)}
        self._files = list(files.values())
        self._used: Set[int] = set()  # codes
        self.names: List[str] = []
        self.widths: Dict[str, int] = {}  # vector dataset -> D
        if not files:
            return  # refuse_nothing() or ledger.count() will say why
        self.identity = self._files[0].identity
        for name, file in files.items():
            if file.identity != self.identity:
                raise ForeignFile(f"{name} was made by another recipe: {'; '.join(differences(self.identity, file.identity))}")
        self.names = vector_names(self.identity.repr_layers, self.identity.include)
        self.widths = {name: self._files[0].width(name) for name in self.names}

    @property
    def are_good(self) -> bool:
        """Whether no sequence is known to have failed."""
        return not self._failures and not any(file.failed for file in self._files)

    def refuse_nothing(self, blocks: Iterable[RecordColumns]) -> None:
        """Where there is no file: BadInput when no record was to be embedded, Incomplete when there is no word of those that were."""
        if self._files:
            return
        total = 0
        shown: List[str] = []
        for records in blocks:
            if any(chunk != NOTHING for chunk in records.chunks):
                if self._failures:
                    return
                raise Incomplete("no chunk was embedded; see the messages of the EMBED_CHUNK tasks above")
            total += len(records.ids)
            shown += [f"{name}: {why}" for name, why in zip(records.ids, records.notes)][: MOST_SHOWN - len(shown)]
        raise BadInput("\n".join([f"all {total} records were left out, there is nothing to embed:", *shown]))

    def outcomes(self, records: RecordColumns) -> Outcomes:
        """Look some records up, one file at a time; record by record only what is not as it should be."""
        codes, rows = self._codes(records), np.array(records.rows)
        flags, residues, found = np.array(records.flags, np.uint8), np.zeros(len(codes), np.int64), np.zeros(len(codes), bool)
        digests = records.digests()
        for code in _each_once(codes[codes >= 0]):
            file, here = self._files[code], np.flatnonzero(codes == code)
            here = here[rows[here] < len(file)]
            here = here[(file.digests[rows[here]] == digests[here]).all(axis=1)]
            if file.failed:
                here = here[~np.isin(rows[here], list(file.failed))]
            its = rows[here]
            flags[here] |= file.flags[its] & np.uint8(OF_VECTORS)
            residues[here] = file.offsets[its + 1] - file.offsets[its]
            found[here] = True
        statuses, reasons = [STATUSES[value] for value in flags.tolist()], list(records.notes)
        for at in np.flatnonzero(~found).tolist():
            statuses[at], reasons[at] = self._without_vector(records, at)
        for at in np.flatnonzero(found & self._worth_a_word(flags, residues)).tolist():
            reasons[at] = "; ".join(filter(None, [reasons[at], *self._in_words(int(flags[at]), int(residues[at]))]))
        return Outcomes(records, digests, statuses, flags, reasons, residues, found, codes, rows)

    def _codes(self, records: RecordColumns) -> np.ndarray:
        return np.fromiter(map(self._code.get, records.chunks, repeat(-1)), np.int64, len(records.chunks))

    def _worth_a_word(self, flags: np.ndarray, residues: np.ndarray) -> np.ndarray:
        cut = flags & np.uint8(Flag.TRUNCATED | Flag.WINDOWED) > 0
        return cut | (rows_of(CONTACTS, residues) == 0) if CONTACTS in self.names else cut

    def _in_words(self, flags: int, residues: int) -> List[str]:
        return [cut_in_words(flags, residues, self.identity.max_residues), missing_contacts(residues) if CONTACTS in self.names else ""]

    def _without_vector(self, records: RecordColumns, at: int) -> "tuple[str, str]":
        """(status, reason)."""
        chunk, row = records.chunks[at], records.rows[at]
        if chunk == NOTHING:
            return "skipped", records.notes[at]
        file = self.by_name.get(chunk)
        if file is None and chunk in self._failures:
            reason = self._failures[chunk].get(row)
            return "failed" if reason else "kept", reason or ""
        if file is None:
            return "lost", f"{chunk} is missing"
        if row >= len(file) or file.digests[row].tobytes().hex() != records.sha256[at]:
            return "lost", f"row {row} of {chunk} holds another sequence"
        return "failed", file.failed[row]

    def pieces(self, block: RecordBlock, name: str) -> Iterator[np.ndarray]:
        """The rows of a vector dataset that belong to these records, end to end, some PIECE_BYTES at a time or one record's.

        They are read as they are asked for, and are good ones only once check_used() has returned. CorruptStore when a file is torn.
        """
        self._used.update(block.files.tolist())
        borders = [0, *(np.flatnonzero(np.diff(block.files)) + 1).tolist(), len(block.files)]
        return _joined(piece for start, stop in zip(borders, borders[1:]) for piece in self._pieces_of_file(block.some(slice(start, stop)), name))

    def _pieces_of_file(self, block: RecordBlock, name: str) -> Iterator[np.ndarray]:
        row_bytes = self.widths[name] * np.dtype(np.float32).itemsize
        for part in parts(row_bytes * rows_of(name, block.residues), PIECE_BYTES):
            yield self._files[block.files[0]].vectors(name, block.rows[part])

    def check_used(self) -> None:
        """CorruptStore when a file that a vector was taken from is damaged."""
        for code in sorted(self._used):
            self._files[code].check_vectors()

    def check_all(self) -> None:
        """The same of all files, also of those of which no record wanted a vector."""
        for file in self._files:
            file.check_vectors()


def _each_once(codes: np.ndarray) -> List[int]:
    """In the order of their first occurrence."""
    values, first = np.unique(codes, return_index=True)
    return values[np.argsort(first)].tolist()


def parts(sizes: np.ndarray, most: int) -> Iterator[slice]:
    """Consecutive records of (n,) sizes each, as many as do not exceed `most` together; a larger one is alone."""
    start, ends = 0, np.cumsum(sizes)
    while start < len(sizes):
        fitting = int(np.searchsorted(ends, most + (ends[start - 1] if start else 0), "right"))
        stop = max(start + 1, fitting)
        yield slice(start, stop)
        start = stop


def _joined(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same rows, small pieces put together: each will cost a call or two of the system."""
    waiting: List[np.ndarray] = []
    size = 0
    for piece in pieces:
        if waiting and size + piece.nbytes > PIECE_BYTES:
            yield _whole(waiting)
            waiting, size = [], 0
        waiting.append(piece)
        size += piece.nbytes
    if waiting:
        yield _whole(waiting)


def _whole(pieces: List[np.ndarray]) -> np.ndarray:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
