"""Unique sequences into chunks whose borders depend on content, and the table that leads from record to chunk and row.

A border falls behind a sequence when its digest says so, with a chance proportional to what the sequence costs (residues, or
shapes.Shape.work with attention's quadratic share), between half and twice of what a chunk should cost. So a record inserted
or removed moves the borders of its own chunk only, and the others keep their name, their Nextflow cache and their
checkpoints (content-defined chunking; Muthitacharoen et al. 2001, LBFS).
"""

import contextlib
from array import array
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import compress
from pathlib import Path
from typing import IO, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from protembed.atomic import replacing, writing_table
from protembed.borders import are_borders
from protembed.first_seen import FirstSeen
from protembed.identity import chunk_name
from protembed.layout import Flag
from protembed.proteins import digests_of
from protembed.records import NOTHING, CheckedRecords, table_of
from protembed.sampling import Sampler

OPEN = "\0"  # in a waiting line, where the name of the open chunk will stand; no id and no note has this letter


@contextlib.contextmanager
def writing_chunks(outdir: Path, aim: int, cost: Callable[[np.ndarray], np.ndarray], sampler: Sampler) -> Iterator["ChunkWriter"]:
    """Yield a ChunkWriter for `outdir`; records.tsv appears there only when the block ends well. `sampler` sees every sequence."""
    folder = outdir / "chunks"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("chunk_*.fasta"):  # of a killed attempt in this very folder (a requeued job)
        leftover.unlink()
    with writing_table(outdir / "records.tsv") as table, ThreadPoolExecutor(1) as beside:
        writer = ChunkWriter(folder, table, aim, cost, sampler, beside)
        yield writer
        writer.finish()


class _Judged(NamedTuple):
    """What the sequences of some records tell, (n,) each. Of a record that is left out: zeros, number -1, False."""

    digests: np.ndarray  # (n, 32) uint8
    costs: np.ndarray  # int64; 0 where not new
    numbers: np.ndarray  # int64: of the first record with this sequence, counted among those that have one
    new: np.ndarray  # bool: that is this record itself
    borders: np.ndarray  # bool: wants a border behind it


class ChunkWriter:
    """Takes records in input order, writes each different sequence once, and holds one open chunk at a time.

    A chunk ends after half of `aim` at the earliest and before twice of it is exceeded, unless one sequence alone costs more.
    cost: of sequences of these lengths, in the unit of `aim`. beside: writes a chunk while the next one fills.
    Memory: 50 bytes and the id per record, and the text of two chunks.
    """

    def __init__(self, folder: Path, table: IO[str], aim: int, cost: Callable[[np.ndarray], np.ndarray], sampler: Sampler, beside: Executor):
        self.folder, self.table, self.aim, self._cost, self._sampler, self._beside = folder, table, aim, cost, sampler, beside
        self._seen = FirstSeen()  # digests
        self._chunk_of, self._row_of = array("i"), array("i")  # per number
        self._ids, self._id_ends = bytearray(), array("q", [0])  # per number
        self._fasta: List[str] = []  # of the open chunk
        self._digests = bytearray()  # of the open chunk
        self._waiting: List[str] = []  # lines of the table
        self._open_cost = self._open_residues = 0
        self._written: Optional[Future] = None  # the chunk before
        self.names: List[str] = []  # of finished chunks
        self.totals: Dict[str, int] = dict(records=0, sequences=0, residues=0, chunks=0, duplicates=0, skipped=0)
        self.sizes: Dict[str, Tuple[int, int]] = {}  # per chunk: sequences, residues

    def add(self, records: CheckedRecords) -> None:
        """The next records; those without a sequence get their line in the table and no row."""
        judged = self._judge(records)
        place, count, skipped = 0, len(records.ids), int((judged.numbers < 0).sum())
        self.totals["records"] += count
        self.totals["skipped"] += skipped
        self.totals["duplicates"] += count - skipped - int(judged.new.sum())
        while place < count:
            stop = self._end(judged, place)
            self._take(records, judged, slice(place, min(stop, count)))
            if stop <= count:
                self._close_chunk()
            place = stop

    def finish(self) -> None:
        """Close the last chunk; every chunk is on the disk and every record in the table."""
        self._close_chunk()
        if self._written:
            self._written.result()

    def _judge(self, records: CheckedRecords) -> _Judged:
        used, start = np.array(list(map(bool, records.sequences))), len(self._seen)
        digests, numbers = np.zeros((len(used), 32), np.uint8), np.full(len(used), -1)
        digests[used] = np.frombuffer(digests_of(filter(None, records.sequences)), np.uint8).reshape(-1, 32)
        numbers[used] = self._seen.add(digests[used, :16].copy().view(np.uint64))
        new = np.zeros(len(used), bool)
        new[used] = numbers[used] == np.arange(start, len(self._seen))
        ids = "\n".join([*compress(records.ids, used.tolist()), ""]).encode()
        self._id_ends.frombytes((len(self._ids) + 1 + np.flatnonzero(np.frombuffer(ids, np.uint8) == ord("\n"))).tobytes())
        self._ids += ids
        costs = np.where(used, self._cost(np.array(records.residues)), 0)
        return _Judged(digests, costs * new, numbers, new, are_borders(digests, costs, self.aim) & used)

    def _end(self, judged: _Judged, place: int) -> int:
        """Where the open chunk ends if the records from `place` on are added to it; beyond their end: not among them."""
        costs = self._open_cost + np.cumsum(judged.costs[place:])
        too_much = np.flatnonzero(judged.new[place:] & (costs > 2 * self.aim))
        if not self._digests and len(too_much) and not judged.new[place : place + too_much[0]].any():
            too_much = too_much[1:]  # the first in a chunk is never too much
        borders = np.flatnonzero(judged.borders[place:] & (costs >= self.aim // 2)) + 1
        return place + int(min([*too_much[:1], *borders[:1], len(costs) + 1]))

    def _take(self, records: CheckedRecords, judged: _Judged, some: slice) -> None:
        """Put some records into the open chunk, and their lines among those that wait for its name."""
        new, numbers = judged.new[some], judged.numbers[some]
        rows = (len(self._digests) // 32 - 1 + np.cumsum(new)).astype(np.int32)
        self._row_of.frombytes(rows[numbers >= 0].tobytes())
        self._chunk_of.frombytes(np.full(int((numbers >= 0).sum()), len(self.names), np.int32).tobytes())
        rows = rows.tolist()
        hexadecimal = judged.digests[some].tobytes().hex()
        digests, chunks = [hexadecimal[at : at + 64] for at in range(0, len(hexadecimal), 64)], [OPEN] * len(new)
        records = CheckedRecords(*(column[some] for column in records))
        self._fill(records, judged, some, digests)
        for at in np.flatnonzero(~new).tolist():
            if numbers[at] < 0:
                digests[at], chunks[at], rows[at] = NOTHING, NOTHING, -1
            else:
                chunks[at], rows[at], first = self._where(int(numbers[at]))
                records.flags[at] |= int(Flag.DUPLICATE)
                records.notes[at] = "; ".join(filter(None, [records.notes[at], f"same sequence as {first}"]))
        self._waiting.append(table_of(zip(records.ids, records.residues, digests, chunks, rows, records.flags, records.notes, records.samples)))

    def _fill(self, records: CheckedRecords, judged: _Judged, some: slice, digests: List[str]) -> None:
        new, lengths = judged.new[some], np.array(records.residues)
        for at in np.flatnonzero(new & self._sampler.may_want(judged.digests[some], lengths)).tolist():
            self._sampler.add(judged.digests[some][at].tobytes(), records.sequences[at], len(self.names))
        self._fasta.append(fasta_of(*(list(compress(column, new.tolist())) for column in (digests, records.sequences))))
        self._digests += judged.digests[some][new].tobytes()
        self._open_cost += int(judged.costs[some].sum())
        self._open_residues += int(lengths[new].sum())

    def _where(self, number: int) -> Tuple[str, int, str]:
        """(chunk, row, id of the first record with it) of a sequence."""
        chunk = self._chunk_of[number]
        first = self._ids[self._id_ends[number] : self._id_ends[number + 1] - 1].decode()
        return OPEN if chunk == len(self.names) else self.names[chunk], self._row_of[number], first

    def _close_chunk(self) -> None:
        if self._digests:
            name = chunk_name([self._digests])
            if self._written:
                self._written.result()
            self._written = self._beside.submit(write_fasta, self.folder / f"{name}.fasta", self._fasta)
            self.names.append(name)
            self.sizes[name] = len(self._digests) // 32, self._open_residues
            self.totals["chunks"] += 1
            self.totals["sequences"] += len(self._digests) // 32
            self.totals["residues"] += self._open_residues
            self._waiting = [lines.replace(OPEN, name) for lines in self._waiting]
        self.table.writelines(self._waiting)
        self._waiting, self._fasta, self._digests = [], [], bytearray()
        self._open_cost = self._open_residues = 0


def fasta_of(digests: List[str], sequences: List[str]) -> str:
    """The text of some records of a chunk; three times as fast as a line of Python for each."""
    parts = [">", "", "\n", "", "\n"] * len(digests)
    parts[1::5], parts[3::5] = digests, sequences
    return "".join(parts)


def write_fasta(path: Path, records: List[str]) -> None:
    """A chunk: each record is a header with the sequence's digest, and a line with the sequence."""
    with replacing(path) as temporary, open(temporary, "w", encoding="ascii") as fasta:
        fasta.writelines(records)
