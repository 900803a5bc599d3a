"""records.tsv: for every record of the input, in its order, the chunk and row of its vector; and such records, many at a time."""

from pathlib import Path
from typing import Iterator, List, NamedTuple, Sequence

import numpy as np

EARLIER = "earlier_"  # with the number of a file of --reuse, counted from 1, in place of the chunk of a record that is reused
NOTHING = "-"  # in place of the digest and chunk of a record that is left out
LEFT_OUT = f"\t{NOTHING}\t{NOTHING}\t-1\t".encode()  # digest, chunk and row in the line of such a record, and of no other
BLOCK_BYTES = 1 << 19  # of the table that are read at a time: some four thousand lines


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


class RecordColumns(NamedTuple):
    """Consecutive lines of records.tsv: RecordRow's fields, of (n,) records each."""

    ids: List[str]
    residues: List[int]
    sha256: List[str]
    chunks: List[str]
    rows: List[int]
    flags: List[int]
    notes: List[str]
    samples: List[str]

    def digests(self) -> np.ndarray:
        """(n, 32) uint8; zeros where there is none."""
        text = "".join(self.sha256)
        return np.frombuffer(bytes.fromhex(text.replace(NOTHING, "0" * 64)), np.uint8).reshape(-1, 32)

    def some(self, places: np.ndarray) -> "RecordColumns":
        """Those at these places, rising."""
        chosen = places.tolist()
        if chosen and chosen[-1] - chosen[0] == len(chosen) - 1:
            return RecordColumns._make([column[chosen[0] : chosen[-1] + 1] for column in self])
        return RecordColumns._make([column[at] for at in chosen] for column in self)


class RecordBlock(NamedTuple):
    """Some consecutive records that have vectors, as embeddings.h5 takes them."""

    ids: Sequence[str]
    samples: Sequence[str]
    lengths: np.ndarray  # (B,) int32
    flags: np.ndarray  # (B,) uint8
    digests: np.ndarray  # (B, 32) uint8
    residues: np.ndarray  # (B,) int64, embedded
    files: np.ndarray  # (B,) int64: the numbers that merging.VectorFiles gives the files with their vectors
    rows: np.ndarray  # (B,) int64: where in those they stand

    def some(self, part: slice) -> "RecordBlock":
        """Those at these places."""
        return RecordBlock._make(column[part] for column in self)


def table_of(rows: "zip[tuple]") -> str:
    """The lines of some rows, each a tuple of RecordRow's fields."""
    return "".join(
        [f"{name}\t{residues}\t{digest}\t{chunk}\t{row}\t{flags}\t{note}\t{sample}\n" for name, residues, digest, chunk, row, flags, note, sample in rows]
    )


def read_columns(path: Path) -> Iterator[RecordColumns]:
    """Stream records.tsv in input order, some thousand records at a time."""
    width = len(RecordColumns._fields)
    with open(path, "rb") as table:
        while some := table.read(BLOCK_BYTES):
            fields = (some + table.readline()).decode().replace("\n", "\t").split("\t")
            names, residues, digests, chunks, rows, flags, notes, samples = (fields[column:-1:width] for column in range(width))
            yield RecordColumns(names, list(map(int, residues)), digests, chunks, list(map(int, rows)), list(map(int, flags)), notes, samples)


class RecordCounts(NamedTuple):
    """Of a records.tsv."""

    records: int
    left_out: int  # of them: no chunk is to have a vector
    has_samples: bool  # a samplesheet named them


def count_records(path: Path) -> RecordCounts:
    """From the bytes of records.tsv alone, at a tenth of what reading its fields takes."""
    records = left_out = without_sample = 0
    with open(path, "rb") as table:
        while some := table.read(BLOCK_BYTES):
            some += table.readline()
            letters = np.frombuffer(some, np.uint8)
            ends = np.flatnonzero(letters == ord("\n"))
            records += len(ends)
            left_out += some.count(LEFT_OUT)
            without_sample += int(np.count_nonzero(letters[ends - 1] == ord("\t")))
    return RecordCounts(records, left_out, without_sample < records)


def read_records(path: Path) -> Iterator[RecordRow]:
    """Stream records.tsv in input order, one by one."""
    for columns in read_columns(path):
        yield from map(RecordRow, *columns)
