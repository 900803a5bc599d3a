#!/usr/bin/env python3
"""Check every record of the input once and cut the unique sequences into chunks named by their content.

Writes chunks/chunk_<digest>.fasta (headers are sequence digests), records.tsv (one row per input record, in input
order), sample.fasta (what verify_embeddings.py will embed again) and split.json (totals). Bad records are listed as
`file:line id what`, the first 20 of them, before any embedding starts.
"""

import json
import sys
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Callable, Iterator, List, Tuple

import numpy as np

from protembed.atomic import write_text
from protembed.beside import beside_if_large
from protembed.borders import chunk_residues_for
from protembed.checking import RecordChecker
from protembed.chunking import writing_chunks
from protembed.cli import log, run
from protembed.errors import BadOption
from protembed.fasta import read_blocks
from protembed.records import CheckedRecords
from protembed.sampling import Sampler
from protembed.shapes import LONGEST_CHUNK, bounds_of_chunks, guessed_shape
from protembed.windows import POLICIES, window_count

LARGEST_NUMBER = 1 << 50  # of an option; products of two lengths stay within 64 bits where sequences are of this world


@dataclass(frozen=True)
class Options:
    fasta: List[str] = field(metadata=dict(args=["fasta"], nargs="+", type=str, help="FASTA files, plain or .gz .bz2 .zst, in order"))
    samples: str = field(default="", metadata=dict(help="comma separated, of a samplesheet: the sample of each file (default: none)"))
    outdir: str = field(default=".", metadata=dict(help="folder for chunks/, records.tsv and split.json (default: .)"))
    chunk_residues: int = field(default=0, metadata=dict(help="residues per chunk to aim at; 0: by input, model and device (default: 0)"))
    model: str = field(default="", metadata=dict(help="what --model will be, to size chunks by (default: the smallest model)"))
    model_bytes: int = field(default=0, metadata=dict(help="size of the file when the model is a local one (default: 0)"))
    device: str = field(default="cpu", metadata=dict(choices=["cpu", "cuda"], help="what will compute (default: cpu)"))
    max_residues: int = field(default=0, metadata=dict(help="residues that will be embedded of a long sequence; 0: all (default: 0)"))
    long_sequences: str = field(default="truncate", metadata=dict(choices=POLICIES, help="what will happen beyond max-residues (default: truncate)"))
    residue_vectors: int = field(default=0, metadata=dict(help="vectors that will be kept of each residue (default: 0)"))
    longest_chunk: int = field(default=LONGEST_CHUNK, metadata=dict(help=f"seconds that a chunk may take on a fast device (default: {LONGEST_CHUNK})"))
    invalid_residues: str = field(
        default="error",
        metadata=dict(
            choices=["error", "substitute", "skip"], help="letters outside fair-esm's alphabet: stop, write X, or leave the record out (default: error)"
        ),
    )
    duplicate_ids: str = field(default="error", metadata=dict(choices=["error", "rename"], help="ids that occur again: stop, or add _2, _3 (default: error)"))
    sample: int = field(default=0, metadata=dict(help="sequences to draw for verify_embeddings.py (default: 0)"))
    longest_allowed: int = field(default=0, metadata=dict(help="residues; a longer record is an error; 0: any length (default: 0)"))

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, int) and not 0 <= value <= LARGEST_NUMBER:
                raise BadOption(f"--{name.replace('_', '-')} must be from 0 to {LARGEST_NUMBER}, found {value}")


def chunk_size(options: Options) -> "tuple[int, Callable[[np.ndarray], np.ndarray]]":
    """What a chunk should cost, and the cost of sequences by their lengths: residues when the user gives them, else work."""
    if options.chunk_residues:
        return options.chunk_residues, lambda residues: residues
    shape = guessed_shape(options.model, options.model_bytes)
    aim = chunk_residues_for([Path(path) for path in options.fasta], *bounds_of_chunks(shape, options.device, options.residue_vectors, options.longest_chunk))

    def work(residues: np.ndarray) -> np.ndarray:
        if not options.max_residues:
            return shape.work(residues)
        windows = window_count(residues, options.max_residues) if options.long_sequences == "window" else 1
        return windows * shape.work(np.minimum(residues, options.max_residues))

    return aim, work


def read_all(options: Options, checker: RecordChecker) -> Iterator[CheckedRecords]:
    """The records of all files, checked; those without a fault as long as there is none."""
    samples = options.samples.split(",") if options.samples else [""] * len(options.fasta)
    if len(samples) != len(options.fasta):
        raise BadOption(f"--samples names {len(samples)} samples for {len(options.fasta)} files")
    paths = [Path(path) for path in options.fasta]
    reading = partial(read_files, paths)
    size = sum(path.stat().st_size for path in paths if path.exists())
    for number, blocks in groupby(beside_if_large(reading, size), key=itemgetter(0)):
        checker.begin(paths[number], samples[number])
        for _, titles, residues in blocks:
            records = checker.check(titles, residues)
            if not checker.offender_count:  # else nothing will be embedded: only the rest of the list of offenders matters
                yield records


def read_files(paths: List[Path]) -> Iterator[Tuple[int, List[str], List[str]]]:
    """(number of the file, titles, residues) of the records of all files; as read_blocks."""
    for number, path in enumerate(paths):
        for titles, residues in read_blocks(path):
            yield number, titles, residues


def main(options: Options) -> None:
    checker = RecordChecker(options.invalid_residues, options.duplicate_ids, options.longest_allowed)
    aim, cost = chunk_size(options)
    sampler, outdir = Sampler(options.sample), Path(options.outdir)
    with writing_chunks(outdir, aim, cost, sampler) as chunks:
        for records in read_all(options, checker):
            chunks.add(records)
        checker.raise_if_any()
    sample = sampler.chosen()
    write_text(outdir / "sample.fasta", "".join(f">{digest.hex()}\n{sequence}\n" for digest, (sequence, _) in sample.items()))
    sampled_chunks = sorted({chunks.names[chunk] for _, chunk in sample.values()})
    write_text(outdir / "split.json", json.dumps(dict(chunks.totals, chunk_sizes=chunks.sizes, sampled_chunks=sampled_chunks)) + "\n")
    log.info("%(records)d records, %(sequences)d different sequences, %(residues)d residues in %(chunks)d chunks, %(skipped)d skipped", chunks.totals)


if __name__ == "__main__":
    sys.exit(run(Options, main))
