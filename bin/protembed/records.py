"""records.tsv: for every record of the input, in its order, the chunk and row of its vector. Standard library only."""

from pathlib import Path
from typing import Iterator, List, NamedTuple

EARLIER = "earlier_"  # with the number of a file of --reuse, counted from 1, in place of the chunk of a record that is reused
NOTHING = "-"  # in place of the digest and chunk of a record that is left out


class CheckedRecords(NamedTuple):
    """Consecutive records after the policies, as lists of equal length."""

    ids: List[str]
    sequences: List[str]  # canonical, all letters in the alphabet; empty: this record is left out
    residues: List[int]  # of the record, also where it is left out
    flags: List[int]
    notes: List[str]
    samples: List[str]


class RecordRow(NamedTuple):
    """One line of records.tsv: where a record's vector will stand, or why there is none (chunk '-', row -1)."""

    id: str
    residues: int
    sha256: str
    chunk: str
    row: int
    flags: int  # a sum of layout.Flag: whose own | and & cost a microsecond each, and there are millions of rows
    note: str
    sample: str = ""  # of a samplesheet; empty without one


def table_of(rows: "zip[tuple]") -> str:
    """The lines of some rows, each a tuple of RecordRow's fields."""
    return "".join(
        [f"{name}\t{residues}\t{digest}\t{chunk}\t{row}\t{flags}\t{note}\t{sample}\n" for name, residues, digest, chunk, row, flags, note, sample in rows]
    )


def read_records(path: Path) -> Iterator[RecordRow]:
    """Stream records.tsv in input order."""
    with open(path, encoding="utf-8", newline="\n") as table:
        for line in table:
            name, residues, digest, chunk, row, flags, note, sample = line.rstrip("\n").split("\t")
            yield RecordRow(name, int(residues), digest, chunk, int(row), int(flags), note, sample)
