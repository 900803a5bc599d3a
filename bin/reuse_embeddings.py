#!/usr/bin/env python3
"""Leave out of the chunks what earlier embeddings.h5 hold: sequences of equal digest, whose vectors one recipe has made.

Reads what split_fasta.py wrote and writes the same anew: chunks/ with what is still to be computed, records.tsv (where
`earlier_<n>`, the n-th file, takes the place of a chunk), split.json and sample.fasta. Exit code 67 when a file is of another
recipe, 68 when it is damaged: before anything is computed.
"""

import json
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import numpy as np

from protembed.atomic import write_text, writing_table
from protembed.chunking import write_fasta
from protembed.cli import log, run
from protembed.errors import ForeignFile
from protembed.identity import Identity, chunk_name, differences, identity_of
from protembed.layout import Flag
from protembed.proteins import read_fasta
from protembed.reading import Embeddings, open_embeddings
from protembed.records import EARLIER, NOTHING, RecordRow, read_records, table_of
from protembed.sampling import Sampler
from protembed.stock import Stock

REUSED_IN_SAMPLE = 4  # of so many verified sequences one more is a reused one


@dataclass(frozen=True)
class Options:
    earlier: List[str] = field(metadata=dict(args=["earlier"], nargs="+", type=str, help="embeddings.h5 of earlier runs, the preferred one first"))
    split: str = field(metadata=dict(help="folder that split_fasta.py wrote"))
    weights: str = field(metadata=dict(help="weights.json written by fetch_weights.py"))
    outdir: str = field(default=".", metadata=dict(help="folder for chunks/, records.tsv, split.json and sample.fasta (default: .)"))
    repr_layers: str = field(default="-1", metadata=dict(help="as embed_chunk.py's (default: -1)"))
    include: str = field(default="mean", metadata=dict(help="as embed_chunk.py's (default: mean)"))
    dtype: str = field(default="float32", metadata=dict(choices=["float32", "float16", "bfloat16"], help="of the matrix products (default: float32)"))
    long_sequences: str = field(default="truncate", metadata=dict(help="as embed_chunk.py's (default: truncate)"))
    max_residues: int = field(default=1022, metadata=dict(help="as embed_chunk.py's (default: 1022)"))
    store_dtype: str = field(default="float32", metadata=dict(choices=["float32", "float16"], help="as merge_chunks.py's (default: float32)"))
    sample: int = field(default=0, metadata=dict(help="sequences to draw for verify_embeddings.py, of those to be computed (default: 0)"))


def refuse_foreign(file: Embeddings, wanted: Identity, store_dtype: str) -> None:
    """ForeignFile unless vectors of this file may stand beside those of this run."""
    differing = differences(wanted, file.identity)
    if file.attributes["store_dtype"] == "float16" and store_dtype == "float32":
        differing.append("store_dtype: float16, which has lost what float32 keeps")
    if differing:
        raise ForeignFile(f"{file.path.name} cannot be reused: {'; '.join(differing)}; leave it out of --reuse, or run as it was made")


class Remainder:
    """What is to be computed, in chunks: one that loses nothing stays as it is; what is left of others fills new ones."""

    def __init__(self, folder: Path, aim: int, sampler: Sampler):
        self.folder, self.aim, self._sampler = folder, aim, sampler
        self.names: List[str] = []  # by number
        self.sizes: Dict[str, Tuple[int, int]] = {}
        self._open: List[Tuple[bytes, str]] = []
        self._open_residues = 0
        self._number = self._new_number()

    def _new_number(self) -> int:
        self.names.append("")
        return len(self.names) - 1

    def keep(self, path: Path, digests: List[bytes], sequences: List[str]) -> Tuple[np.ndarray, np.ndarray]:
        """Take a whole chunk; (numbers of chunks, rows) of its sequences."""
        number = self._new_number()
        shutil.copyfile(path, self.folder / path.name)
        self._close(number, path.stem, digests, sequences)
        return np.full(len(digests), number), np.arange(len(digests))

    def add(self, digests: List[bytes], sequences: List[str]) -> Tuple[np.ndarray, np.ndarray]:
        """Take what is left of a chunk; the same for these."""
        number, start = self._number, len(self._open)
        self._open += zip(digests, sequences)
        self._open_residues += sum(map(len, sequences))
        if self._open_residues >= self.aim:
            self.finish()
            self._number = self._new_number()
        return np.full(len(digests), number), np.arange(start, start + len(digests))

    def finish(self) -> None:
        """Write the chunk that is open."""
        if self._open:
            digests, sequences = map(list, zip(*self._open))
            name = chunk_name(digests)
            write_fasta(self.folder / f"{name}.fasta", [f">{digest.hex()}\n{sequence}\n" for digest, sequence in self._open])
            self._close(self._number, name, digests, sequences)
            self._open, self._open_residues = [], 0

    def _close(self, number: int, name: str, digests: List[bytes], sequences: List[str]) -> None:
        self.names[number] = name
        self.sizes[name] = len(digests), sum(map(len, sequences))
        for digest, sequence in zip(digests, sequences):
            self._sampler.add(digest, sequence, name)


class Division:
    """Every sequence of the split either to a row of an earlier file or to a row of a remaining chunk."""

    def __init__(self, stock: Stock, remainder: Remainder, reused_sampler: Sampler):
        self.stock, self.remainder, self._reused_sampler = stock, remainder, reused_sampler
        self._places: Dict[str, Tuple[np.ndarray, np.ndarray]] = {}  # chunk of the split -> per row: minus the file's number or a chunk's, and the row there
        self.reused = 0

    def divide(self, path: Path) -> None:
        """One chunk of the split; call in the order of the input."""
        records = list(read_fasta(path))
        digests, sequences = [bytes.fromhex(record.id) for record in records], [record.sequence for record in records]
        files, rows = self.stock.find(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32))
        left = np.flatnonzero(files < 0)
        if len(left) == len(records):
            self._places[path.stem] = self.remainder.keep(path, digests, sequences)
            return
        for at in np.flatnonzero(files >= 0).tolist():
            if self.stock.is_exact(files[at]):
                self._reused_sampler.add(digests[at], sequences[at], f"{EARLIER}{files[at] + 1}")
        self.reused += len(records) - len(left)
        numbers = -1 - files  # 0, the place of those that are left, is given now
        numbers[left], rows[left] = self.remainder.add([digests[at] for at in left], [sequences[at] for at in left])
        self._places[path.stem] = numbers, rows

    def relocated(self, record: RecordRow) -> RecordRow:
        """The record with the place where its vector will be."""
        if record.chunk == NOTHING:
            return record
        numbers, rows = self._places[record.chunk]
        number, row = int(numbers[record.row]), int(rows[record.row])
        if number >= 0:
            return record._replace(chunk=self.remainder.names[number], row=row)
        note = f"row {row} of {self.stock.titles[-1 - number]}"
        return record._replace(chunk=f"{EARLIER}{-number}", row=row, flags=record.flags | Flag.REUSED, note="; ".join(filter(None, [record.note, note])))


def chunk_paths(split: Path, totals: dict) -> Iterator[Path]:
    """The chunks of the split, in the order of the input."""
    return (split / "chunks" / f"{name}.fasta" for name in totals["chunk_sizes"])


def main(options: Options) -> None:
    split, outdir = Path(options.split), Path(options.outdir)
    weights = json.loads(Path(options.weights).read_text(encoding="utf-8"))
    limits = options.long_sequences, options.max_residues
    made_by = weights["sha256"], weights["layers"], weights["regression_sha256"]
    wanted = identity_of(*made_by, options.repr_layers, options.include, options.dtype, *limits)
    totals = json.loads((split / "split.json").read_text(encoding="utf-8"))
    shutil.rmtree(outdir / "chunks", ignore_errors=True)  # of a killed attempt in this very folder
    (outdir / "chunks").mkdir(parents=True)
    with ExitStack() as stack:
        files = []
        for path in options.earlier:  # first what costs nothing to find out
            files.append(stack.enter_context(open_embeddings(path)))
            refuse_foreign(files[-1], wanted, options.store_dtype)
        for file in files:
            file.verify()
        samplers = Sampler(options.sample), Sampler(options.sample // REUSED_IN_SAMPLE)
        remainder = Remainder(outdir / "chunks", max(1, totals["residues"] // max(1, totals["chunks"])), samplers[0])
        division = Division(Stock(files), remainder, samplers[1])
        for path in chunk_paths(split, totals):
            division.divide(path)
        remainder.finish()
        with writing_table(outdir / "records.tsv") as table:
            table.writelines(table_of([division.relocated(record)]) for record in read_records(split / "records.tsv"))
    sample = {**samplers[0].chosen(), **samplers[1].chosen()}
    write_text(outdir / "sample.fasta", "".join(f">{digest.hex()}\n{sequence}\n" for digest, (sequence, _) in sample.items()))
    sampled_chunks = sorted({place for _, place in sample.values()})
    now = dict(totals, chunks=len(remainder.sizes), chunk_sizes=remainder.sizes, sampled_chunks=sampled_chunks, reused=division.reused)
    write_text(outdir / "split.json", json.dumps(now) + "\n")
    log.info("%d of %d sequences are in earlier files, the others in %d chunks", division.reused, totals["sequences"], len(remainder.sizes))


if __name__ == "__main__":
    sys.exit(run(Options, main))
