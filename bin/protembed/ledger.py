"""ledger.tsv: what became of every record of the input, in its order; failed.tsv: those without a vector, when there are any. Standard library only."""

from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple

from protembed.errors import BadInput, Incomplete
from protembed.layout import CONTACTS, CONTACTS_MAX_RESIDUES, Flag, rows_of
from protembed.records import RecordRow

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


class Outcome(NamedTuple):
    """What became of one record."""

    record: RecordRow
    # see status_of; or skipped, as a policy asked; failed, in the model; kept, in a checkpoint beside a failed one; lost: should never be
    status: str
    flags: int  # a sum of layout.Flag
    reason: str
    residues: int = 0  # that are embedded

    @property
    def has_vector(self) -> bool:
        return self.status in WITH_VECTOR

    def as_line(self, next_row: int) -> str:
        """As it stands in the ledger; `next_row` is its row of embeddings.h5 if it has one."""
        record, place = self.record, next_row if self.has_vector else "-"
        status = self.status if self.has_vector else "skipped"
        return f"{record.id}\t{status}\t{place}\t{record.residues}\t{self.flags}\t{record.sha256}\t{self.reason}\t{record.sample}\n"

    def as_failed_line(self) -> str:
        """As it stands in failed.tsv, which lists records without vectors only."""
        return f"{self.record.id}\t{self.record.sample}\t{self.status}\t{self.record.residues}\t{self.reason}\n"


def in_blocks(outcomes: Iterable[Outcome], records: int, residues: int) -> Iterator[List[Outcome]]:
    """Consecutive outcomes, at most so many records and embedded residues at a time; a record with more is alone."""
    block: List[Outcome] = []
    held = 0
    for outcome in outcomes:
        if block and (len(block) == records or held + outcome.residues > residues):
            yield block
            block, held = [], 0
        block.append(outcome)
        held += outcome.residues
    if block:
        yield block


class Totals(NamedTuple):
    """What a first pass over the records tells."""

    counts: Counter  # status -> records; `records` is their sum
    flags: Counter  # flag name -> records
    embedded_residues: int
    pairs: int  # of residues, of which contacts would be kept
    has_samples: bool  # a samplesheet named them


def count(outcomes: Iterable[Outcome], on_failure: str) -> Totals:
    """Count statuses and flags; Incomplete when a record has no vector that should have one.

    on_failure: 'skip' lets failed sequences go without a vector, never a lost one.
    """
    unwanted = {"lost", "failed"} if on_failure == "error" else {"lost", "kept"}  # to skip the failed is no leave to lose their neighbours
    kinds: Counter = Counter()
    shown: List[str] = []
    residues, pairs, has_samples = 0, 0, False
    for outcome in outcomes:
        kinds[outcome.status, outcome.flags] += 1
        residues += outcome.residues
        pairs += rows_of(CONTACTS, outcome.residues)
        has_samples = has_samples or outcome.record.sample != ""
        if outcome.status in unwanted and len(shown) < MOST_SHOWN:
            shown.append(f"{outcome.record.id}: {outcome.reason}")
    counts, flags = Counter(records=sum(kinds.values())), Counter({flag.name.lower(): 0 for flag in Flag})
    for (status, value), number in kinds.items():
        counts[status] += number
        flags.update({flag.name.lower(): number for flag in Flag if flag & value})
    counts["wanted"] = sum(counts[status] for status in unwanted)
    if shown:
        kept = f"; {counts['kept']} others of their chunks are kept in checkpoints" if counts["kept"] else ""
        first = f"{counts['wanted']} of {counts['records']} records have no vector{kept}; resume to try them again, or give --on_failure skip:"
        raise Incomplete("\n".join([first, *shown]))
    return Totals(counts, flags, residues, pairs, has_samples)


def read_ledger(path: Path) -> Iterator[Dict[str, str]]:
    """Stream a ledger.tsv: column name -> text, line by line. BadInput when it is none."""
    names = HEADER.rstrip("\n").split("\t")
    with open(path, encoding="utf-8", newline="\n") as table:
        if table.readline() != HEADER:
            raise BadInput(f"{path} is not a ledger.tsv of this version")
        for line in table:
            yield dict(zip(names, line.rstrip("\n").split("\t")))
