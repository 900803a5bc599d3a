"""Unique sequences into chunks whose borders depend on content, and the table that leads from record to chunk and row.

A border falls behind a sequence when its digest says so, with a chance proportional to what the sequence costs (residues, or
shapes.Shape.work with attention's quadratic share), between half and twice of what a chunk should cost. So a record inserted
or removed moves the borders of its own chunk only, and the others keep their name, their Nextflow cache and their
checkpoints (content-defined chunking; Muthitacharoen et al. 2001, LBFS).
"""

import contextlib
from array import array
from pathlib import Path
from typing import IO, Callable, Dict, Iterator, List, Sequence, Tuple

from protembed.atomic import replacing
from protembed.identity import chunk_name
from protembed.layout import Flag
from protembed.records import NOTHING, RecordRow
from protembed.sampling import Sampler

CHUNKS_AIMED_AT = 32  # unless that makes them too short to repay their start, or too long
COMPRESSED = {".gz": 1.7, ".bz2": 1.9, ".zst": 1.8}  # residues per byte of a compressed proteome, measured on UniProt's


def chunk_residues_for(paths: Sequence[Path], least: int, most: int) -> int:
    """Residues per chunk for an input of this size: a power of two, so that a growing input keeps its borders for long.

    The first that is not below `least`, unless that is above `most`.
    """
    letters = sum(path.stat().st_size * COMPRESSED.get(path.suffix, 1.0) for path in paths if path.exists())
    smallest, largest = 1 << (least - 1).bit_length(), 1 << (most.bit_length() - 1)
    return min(largest, max(smallest, 1 << (int(letters / CHUNKS_AIMED_AT) | 1).bit_length() - 1))


def is_border(digest: bytes, cost: int, aim: int) -> bool:
    """Whether a sequence wants a border behind it: chance cost / (aim / 2), decided by its digest."""
    return int.from_bytes(digest[:8], "big") * (aim // 2) < cost << 64


@contextlib.contextmanager
def writing_chunks(outdir: Path, aim: int, cost: Callable[[int], int], sampler: Sampler) -> Iterator["ChunkWriter"]:
    """Yield a ChunkWriter for `outdir`; records.tsv appears there only when the block ends well. `sampler` sees every sequence."""
    folder = outdir / "chunks"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("chunk_*.fasta"):  # of a killed attempt in this very folder (a requeued job)
        leftover.unlink()
    with replacing(outdir / "records.tsv") as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as table:
        writer = ChunkWriter(folder, table, aim, cost, sampler)
        yield writer
        writer.finish()


class ChunkWriter:
    """Takes records in input order, writes each different sequence once, and holds one open chunk at a time.

    A chunk ends after half of `aim` at the earliest and before twice of it is exceeded, unless one sequence alone costs more.
    cost: of a sequence of this length, in the unit of `aim`. Memory: some 300 bytes per record.
    """

    def __init__(self, folder: Path, table: IO[str], aim: int, cost: Callable[[int], int], sampler: Sampler):
        self.folder, self.table, self.aim, self._cost, self._sampler = folder, table, aim, cost, sampler
        self._number_of: Dict[bytes, int] = {}  # digest -> number of the unique sequence
        self._chunk_of, self._row_of = array("L"), array("L")  # per unique sequence: chunk number, row
        self._first_id: List[str] = []  # per unique sequence: the record that brought it
        self._chunk_names: List[str] = []  # per finished chunk
        self._sequences: List[str] = []  # of the open chunk
        self._digests: List[bytes] = []
        self._open_residues = self._open_cost = 0
        self._waiting: List[Tuple[str, int, str, int, Flag, str]] = []  # records until the open chunk has its name
        self.totals: Dict[str, int] = dict(records=0, sequences=0, residues=0, chunks=0, duplicates=0, skipped=0)
        self.sizes: Dict[str, Tuple[int, int]] = {}  # per chunk: sequences, residues

    def add(self, name: str, sequence: str, digest: bytes, flags: Flag, note: str) -> None:
        """One record with a usable sequence."""
        number = self._number_of.get(digest)
        if number is None:
            number = self._add_unique(name, sequence, digest)
        else:
            flags |= Flag.DUPLICATE
            note = "; ".join(filter(None, [note, f"same sequence as {self._first_id[number]}"]))
            self.totals["duplicates"] += 1
        self._wait((name, len(sequence), digest.hex(), number, flags, note))
        if self._open_cost >= self.aim // 2 and is_border(digest, self._cost(len(sequence)), self.aim):
            self._close_chunk()

    def skip(self, name: str, residues: int, reason: str) -> None:
        """One record that will have no vector."""
        self.totals["skipped"] += 1
        self._wait((name, residues, NOTHING, -1, Flag(0), reason))

    def finish(self) -> None:
        """Close the last chunk; every record is in the table."""
        self._close_chunk()

    def _wait(self, row: Tuple[str, int, str, int, Flag, str]) -> None:
        self.totals["records"] += 1
        self._waiting.append(row)

    def _add_unique(self, name: str, sequence: str, digest: bytes) -> int:
        cost = self._cost(len(sequence))
        if self._sequences and self._open_cost + cost > 2 * self.aim:
            self._close_chunk()
        number = self._number_of[digest] = len(self._first_id)
        self._first_id.append(name)
        self._chunk_of.append(len(self._chunk_names))
        self._row_of.append(len(self._sequences))
        self._sequences.append(sequence)
        self._digests.append(digest)
        self._open_residues += len(sequence)
        self._open_cost += cost
        self.totals["sequences"] += 1
        self.totals["residues"] += len(sequence)
        return number

    def _close_chunk(self) -> None:
        if self._sequences:
            name = chunk_name(self._digests)
            with replacing(self.folder / f"{name}.fasta") as temporary, open(temporary, "w", encoding="ascii") as fasta:
                fasta.writelines(f">{digest.hex()}\n{sequence}\n" for digest, sequence in zip(self._digests, self._sequences))
            self._chunk_names.append(name)
            self.sizes[name] = len(self._sequences), self._open_residues
            for digest, sequence in zip(self._digests, self._sequences):
                self._sampler.add(digest, sequence, name)
            self.totals["chunks"] += 1
        self._sequences, self._digests, self._open_residues, self._open_cost = [], [], 0, 0
        self.table.writelines(map(self._line, self._waiting))
        self._waiting = []

    def _line(self, row: Tuple[str, int, str, int, Flag, str]) -> str:
        name, residues, digest, number, flags, note = row
        chunk = self._chunk_names[self._chunk_of[number]] if number >= 0 else NOTHING
        place = self._row_of[number] if number >= 0 else -1
        return RecordRow(name, residues, digest, chunk, place, flags, note).as_line()
