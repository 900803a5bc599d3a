"""ledger.tsv: what became of every record of the input, in its order; failed.tsv: those without a vector, when there are any."""

import hashlib
from collections import Counter
from itertools import compress
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple

import numpy as np

from protembed.errors import BadInput, Incomplete
from protembed.layout import CONTACTS, CONTACTS_MAX_RESIDUES, Flag, rows_of
from protembed.records import RecordBlock, RecordColumns

HEADER = "id\tstatus\trow\tresidues\tflags\tsha256\treason\tsample\n"
FAILED_HEADER = "id\tsample\tstatus\tresidues\treason\n"
MOST_SHOWN = 20
WITH_VECTOR = ("embedded", "reused", "windowed", "duplicate")  # statuses


def status_of(flags: int) -> str:
    """Of a record that has a vector."""
    if not flags:
        return "embedded"
    return "duplicate" if flags & Flag.DUPLICATE else "reused" if flags & Flag.REUSED else "windowed" if flags & Flag.WINDOWED else "embedded"


def missing_contacts(residues: int) -> str:
    """Why a record has no contacts, if it has none."""
    return "" if rows_of(CONTACTS, residues) else f"no contacts: more than {CONTACTS_MAX_RESIDUES} residues"


class Outcomes(NamedTuple):
    """What became of some consecutive records, (n,) each."""

    records: RecordColumns
    digests: np.ndarray  # (n, 32) uint8, records.sha256; zeros where there is none
    # see status_of; or skipped, as a policy asked; failed, in the model; kept, in a checkpoint beside a failed one; lost: should never be
    statuses: List[str]
    flags: np.ndarray  # uint8, sums of layout.Flag
    reasons: List[str]
    residues: np.ndarray  # int64, that are embedded; 0 without a vector
    has_vector: np.ndarray  # bool
    files: np.ndarray  # int64: the numbers that merging.VectorFiles gives the files with their vectors
    rows: np.ndarray  # int64, where in those they stand

    def with_vectors(self) -> RecordBlock:
        """Those that have one."""
        places = np.flatnonzero(self.has_vector)
        chosen = self.records.some(places)
        columns = self.flags, self.digests, self.residues, self.files, self.rows
        return RecordBlock(chosen.ids, chosen.samples, np.array(chosen.residues, np.int32), *(column[places] for column in columns))

    def lines(self, first_row: int) -> str:
        """As they stand in the ledger; `first_row`: of embeddings.h5, for the first that has a vector."""
        places: List[object] = (first_row - 1 + np.cumsum(self.has_vector)).tolist()
        statuses = self.statuses
        if not self.has_vector.all():
            statuses = list(statuses)
            for at in np.flatnonzero(~self.has_vector).tolist():
                places[at], statuses[at] = "-", "skipped"
        table = zip(self.records.ids, statuses, places, self.records.residues, self.flags.tolist(), self.records.sha256, self.reasons, self.records.samples)
        return "".join(
            [f"{name}\t{status}\t{row}\t{length}\t{flags}\t{digest}\t{why}\t{sample}\n" for name, status, row, length, flags, digest, why, sample in table]
        )

    def failed_lines(self) -> str:
        """As those without a vector stand in failed.tsv."""
        table = zip(self.records.ids, self.records.samples, self.statuses, self.records.residues, self.reasons)
        chosen = compress(table, (~self.has_vector).tolist())
        return "".join([f"{name}\t{sample}\t{status}\t{length}\t{why}\n" for name, sample, status, length, why in chosen])


class Totals(NamedTuple):
    """What a pass over all records tells."""

    counts: Counter  # status -> records; `records` is their sum
    flags: Counter  # flag name -> records
    embedded_residues: int
    pairs: int  # of residues, of which contacts would be kept
    has_samples: bool  # a samplesheet named them

    @property
    def embedded(self) -> int:
        """Records that have a vector."""
        return sum(self.counts[status] for status in WITH_VECTOR)

    @property
    def left_out(self) -> int:
        """Records that have none."""
        return self.counts["records"] - self.embedded


class Coverage(NamedTuple):
    """Which records have a vector, in order: hexadecimal SHA-256 of their ids, one per line, and of their digests end to end."""

    ids: str
    digests: str


class Tally:
    """Counts statuses and flags of all records, and takes down what a file has to hold.

    on_failure: 'skip' lets failed sequences go without a vector, never a lost one.
    """

    def __init__(self, on_failure: str):
        # to skip the failed is no leave to lose their neighbours
        self._unwanted = {"lost", "failed"} if on_failure == "error" else {"lost", "kept"}
        self._kinds: Counter = Counter()
        self._residues, self._pairs, self._has_samples = 0, 0, False
        self._ids, self._digests = hashlib.sha256(), hashlib.sha256()
        self.offending: List[str] = []  # the first records without a vector that should have one, in words

    def add(self, some: Outcomes) -> None:
        """The next records."""
        self._ids.update("\n".join([*compress(some.records.ids, some.has_vector.tolist()), ""]).encode())
        self._digests.update(some.digests[some.has_vector].tobytes())
        self._kinds.update(zip(some.statuses, some.flags.tolist()))
        self._residues += int(some.residues.sum())
        self._pairs += int(rows_of(CONTACTS, some.residues).sum())
        self._has_samples = self._has_samples or any(some.records.samples)
        if not self._unwanted.isdisjoint(some.statuses):
            words = (f"{name}: {why}" for name, status, why in zip(some.records.ids, some.statuses, some.reasons) if status in self._unwanted)
            self.offending += list(words)[: MOST_SHOWN - len(self.offending)]

    def totals(self) -> Totals:
        """Incomplete when a record has no vector that should have one."""
        counts, flags = Counter(records=sum(self._kinds.values())), Counter({flag.name.lower(): 0 for flag in Flag})
        for (status, value), number in self._kinds.items():
            counts[status] += number
            flags.update({flag.name.lower(): number for flag in Flag if flag & value})
        if self.offending:
            wanted = sum(counts[status] for status in self._unwanted)
            kept = f"; {counts['kept']} others of their chunks are kept in checkpoints" if counts["kept"] else ""
            first = f"{wanted} of {counts['records']} records have no vector{kept}; resume to try them again, or give --on_failure skip:"
            raise Incomplete("\n".join([first, *self.offending]))
        return Totals(counts, flags, self._residues, self._pairs, self._has_samples)

    def coverage(self) -> Coverage:
        """Of the records that have a vector."""
        return Coverage(self._ids.hexdigest(), self._digests.hexdigest())


def count(outcomes: Iterable[Outcomes], on_failure: str) -> Totals:
    """Of all records. Incomplete as Tally raises it."""
    tally = Tally(on_failure)
    for some in outcomes:
        tally.add(some)
    return tally.totals()


def read_ledger(path: Path) -> Iterator[Dict[str, str]]:
    """Stream a ledger.tsv: column name -> text, line by line. BadInput, with the line, when it is none, torn or not there."""
    names, number = HEADER.rstrip("\n").split("\t"), 1
    try:
        with open(path, encoding="utf-8", newline="\n") as table:
            if table.readline() != HEADER:
                raise BadInput(f"{path} is not a ledger.tsv of this version")
            for number, line in enumerate(table, 2):
                fields = dict(zip(names, line[:-1].split("\t")))
                if line.count("\t") != len(names) - 1 or line[-1] != "\n" or not _has_numbers(fields):
                    raise BadInput(f"{path.name}:{number}: no line of a ledger, which is torn or was changed")
                yield fields
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path.name} is damaged somewhere after line {number}: it is not UTF-8") from None


def _has_numbers(fields: Dict[str, str]) -> bool:
    return all(fields[name].isdecimal() for name in ("residues", "flags")) and (fields["row"] == "-" or fields["row"].isdecimal())
