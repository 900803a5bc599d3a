"""records.tsv: for every record of the input, in its order, the chunk and row of its vector. Standard library only."""

from pathlib import Path
from typing import Iterator, NamedTuple

from protembed.layout import Flag

NOTHING = "-"  # in place of the digest and chunk of a record that is left out


class RecordRow(NamedTuple):
    """One line of records.tsv: where a record's vector will stand, or why there is none (chunk '-', row -1)."""

    id: str
    residues: int
    sha256: str
    chunk: str
    row: int
    flags: Flag
    note: str

    def as_line(self) -> str:
        """As it stands in the table."""
        return f"{self.id}\t{self.residues}\t{self.sha256}\t{self.chunk}\t{self.row}\t{int(self.flags)}\t{self.note}\n"


def read_records(path: Path) -> Iterator[RecordRow]:
    """Stream records.tsv in input order."""
    with open(path, encoding="utf-8", newline="\n") as table:
        for line in table:
            name, residues, digest, chunk, row, flags, note = line.rstrip("\n").split("\t")
            yield RecordRow(name, int(residues), digest, chunk, int(row), Flag(int(flags)), note)
