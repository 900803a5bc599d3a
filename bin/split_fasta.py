#!/usr/bin/env python3
"""Check every record of the input once and cut the unique sequences into chunks named by their content.

Writes chunks/chunk_<digest>.fasta (headers are sequence digests), records.tsv (one row per input record, in input
order), sample.fasta (what verify_embeddings.py will embed again) and split.json (totals). Bad records are listed as
`file:line id what`, the first 20 of them, before any embedding starts.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator, List

from protembed.atomic import write_text
from protembed.chunking import chunk_residues_for, writing_chunks
from protembed.cli import log, run
from protembed.errors import BadInput
from protembed.layout import Flag
from protembed.proteins import Record, digest_of, foreign_letters, read_fasta, substitute_foreign
from protembed.sampling import Sampler
from protembed.shapes import bounds_of_chunks, guessed_shape

MOST_OFFENDERS_SHOWN = 20


@dataclass(frozen=True)
class Options:
    fasta: List[str] = field(metadata=dict(args=["fasta"], nargs="+", type=str, help="FASTA files, plain or .gz .bz2 .zst, in order"))
    outdir: str = field(default=".", metadata=dict(help="folder for chunks/, records.tsv and split.json (default: .)"))
    chunk_residues: int = field(default=0, metadata=dict(help="residues per chunk to aim at; 0: by input, model and device (default: 0)"))
    model: str = field(default="", metadata=dict(help="what --model will be, to size chunks by (default: the smallest model)"))
    model_bytes: int = field(default=0, metadata=dict(help="size of the file when the model is a local one (default: 0)"))
    device: str = field(default="cpu", metadata=dict(choices=["cpu", "cuda"], help="what will compute (default: cpu)"))
    max_residues: int = field(default=0, metadata=dict(help="residues that will be embedded of a long sequence; 0: all (default: 0)"))
    residue_vectors: int = field(default=0, metadata=dict(help="vectors that will be kept of each residue (default: 0)"))
    invalid_residues: str = field(
        default="error",
        metadata=dict(
            choices=["error", "substitute", "skip"], help="letters outside fair-esm's alphabet: stop, write X, or leave the record out (default: error)"
        ),
    )
    duplicate_ids: str = field(default="error", metadata=dict(choices=["error", "rename"], help="ids that occur again: stop, or add _2, _3 (default: error)"))
    sample: int = field(default=0, metadata=dict(help="sequences to draw for verify_embeddings.py (default: 0)"))
    longest_allowed: int = field(default=0, metadata=dict(help="residues; a longer record is an error; 0: any length (default: 0)"))


class RecordChecker:
    """Applies the policies to one record after the other; collects what is wrong instead of stopping at the first."""

    def __init__(self, options: Options):
        self.options = options
        self.offenders: List[str] = []
        self.offender_count = 0
        self._ids: set = set()

    def refuse(self, record: Record, what: str) -> None:
        """Remember that this record cannot be used."""
        self.offender_count += 1
        if len(self.offenders) < MOST_OFFENDERS_SHOWN:
            self.offenders.append(f"{record.source} {record.id or '(no id)'} {what}")

    def unique_id(self, record: Record) -> str:
        """The record's id, renamed if it was seen before and that is the policy."""
        name = record.id
        if not name:
            self.refuse(record, "has a header without an id; write one after the '>'")
        elif not name.isprintable() or any("\ud800" <= letter <= "\udfff" for letter in name):
            self.refuse(record, "has an id that is not printable UTF-8; rename it")
        elif name in self._ids and self.options.duplicate_ids == "rename":
            number = 2
            while f"{name}_{number}" in self._ids:
                number += 1
            name = f"{name}_{number}"
        elif name in self._ids:
            self.refuse(record, "occurs more than once; rename it, or use --duplicate_ids rename")
        self._ids.add(name)
        return name

    def usable_sequence(self, record: Record) -> "tuple[str, Flag, str]":
        """(sequence, flags, note); an empty sequence with a note means: leave this record out."""
        sequence = record.sequence
        if not sequence:
            self.refuse(record, "has no residues; remove it or give its sequence")
            return "", Flag(0), "no residues"
        if self.options.longest_allowed and len(sequence) > self.options.longest_allowed:
            self.refuse(record, f"has {len(sequence)} residues, more than {self.options.longest_allowed}; see --long_sequences")
        letters = foreign_letters(sequence)
        if not letters:
            return sequence, Flag(0), ""
        found = f"letters outside the alphabet: {' '.join(letters)}"
        if self.options.invalid_residues == "substitute":
            return substitute_foreign(sequence), Flag.SUBSTITUTED, f"X in place of {' '.join(letters)}"
        if self.options.invalid_residues == "error":
            self.refuse(record, f"has {found}; see --invalid_residues")
        return "", Flag(0), found

    def raise_if_any(self) -> None:
        """BadInput with the first offenders and their total."""
        if self.offender_count:
            hidden = self.offender_count - len(self.offenders)
            more = [f"... and {hidden} more"] if hidden else []
            raise BadInput("\n".join([f"{self.offender_count} faults in the input, nothing was embedded:", *self.offenders, *more]))


def read_all(paths: List[str]) -> Iterator[Record]:
    for path in paths:
        yield from read_fasta(Path(path))


def chunk_size(options: Options) -> "tuple[int, Callable[[int], int]]":
    """What a chunk should cost, and the cost of a sequence by its length: residues when the user gives them, else work."""
    if options.chunk_residues:
        return options.chunk_residues, lambda residues: residues
    shape = guessed_shape(options.model, options.model_bytes)
    aim = chunk_residues_for([Path(path) for path in options.fasta], *bounds_of_chunks(shape, options.device, options.residue_vectors))
    return aim, lambda residues: shape.work(min(residues, options.max_residues or residues))


def main(options: Options) -> None:
    checker = RecordChecker(options)
    aim, cost = chunk_size(options)
    sampler, outdir = Sampler(options.sample), Path(options.outdir)
    with writing_chunks(outdir, aim, cost, sampler) as chunks:
        for record in read_all(options.fasta):
            name = checker.unique_id(record)
            sequence, flags, note = checker.usable_sequence(record)
            if checker.offender_count:
                continue  # nothing will be embedded: only the rest of the list of offenders matters
            if sequence:
                chunks.add(name, sequence, digest_of(sequence), flags, note)
            else:
                chunks.skip(name, len(record.sequence), note)
        checker.raise_if_any()
    sample = sampler.chosen()
    write_text(outdir / "sample.fasta", "".join(f">{digest.hex()}\n{sequence}\n" for digest, (sequence, _) in sample.items()))
    sampled_chunks = sorted({chunk for _, chunk in sample.values()})
    write_text(outdir / "split.json", json.dumps(dict(chunks.totals, chunk_sizes=chunks.sizes, sampled_chunks=sampled_chunks)) + "\n")
    log.info("%(records)d records, %(sequences)d different sequences, %(residues)d residues in %(chunks)d chunks, %(skipped)d skipped", chunks.totals)


if __name__ == "__main__":
    sys.exit(run(Options, main))
