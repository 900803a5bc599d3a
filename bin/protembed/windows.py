"""What the model sees at once of each sequence: all of it, its beginning, or windows that overlap. Standard library only.

A window has `size` residues, begins half a window behind the one before it, and the last one ends with the sequence (so it may
overlap more). Half, as in Brandes et al. 2023 (Nature Genetics 55:1512; 511 of 1022): every residue but those at the ends of
the protein then has, in one of its windows, at least a quarter of a window on either side. A change of this rule changes
numbers: raise identity.NUMERICS with it.
"""

from collections import Counter
from typing import Dict, Iterable, List, NamedTuple, Sequence

from protembed.layout import Flag

POLICIES = ("error", "truncate", "window", "full")  # of long_sequences


class Piece(NamedTuple):
    """Consecutive residues of one row that the model sees as a sequence of its own, with BOS, EOS and positions from 0."""

    row: int
    start: int
    end: int  # exclusive

    @property
    def residues(self) -> int:
        return self.end - self.start


def window_starts(residues: int, size: int) -> List[int]:
    """First residues of the windows of a sequence, rising; [0] when it fits into one."""
    last = residues - size
    return [*range(0, last, size - size // 2), last] if last > 0 else [0]


def window_count(residues, size: int):
    """How many these are; `residues` may be a whole number or a numpy array of them."""
    return 1 + (residues > size) * -((size - residues) // (size - size // 2))


def plan_pieces(lengths: Sequence[int], policy: str, size: int) -> List[Piece]:
    """The pieces of all rows, in order of rows and starts. policy: long_sequences; error has been dealt with before.

    All windows of a sequence have `size` residues, more than any other piece: packs take them in this order, first of all.
    """
    if policy != "window":
        return [Piece(row, 0, length if policy == "full" else min(length, size)) for row, length in enumerate(lengths)]
    return [Piece(row, start, min(start + size, length)) for row, length in enumerate(lengths) for start in window_starts(length, size)]


def cut_in_words(flags: int, residues: int, size: int) -> str:
    """For the ledger: what was done to a record of which so many residues are in its vector."""
    if not flags:
        return ""
    if flags & Flag.WINDOWED:
        return f"mean of {window_count(residues, size)} windows of {size} residues"
    return f"first {residues} residues" if flags & Flag.TRUNCATED else ""


class Pieces:
    """Some sequences, one to a row, and their pieces, numbered through. With any policy but window a piece has its row's number."""

    def __init__(self, sequences: Sequence[str], policy: str, size: int):
        self.sequences = sequences
        self.plan = plan_pieces(list(map(len, sequences)), policy, size)
        self._count = Counter(piece.row for piece in self.plan)
        self.first = {piece.row: number for number, piece in reversed(list(enumerate(self.plan)))}  # row -> number of its first piece

    def __len__(self) -> int:
        return len(self.plan)

    def of_row(self, row: int) -> Sequence[Piece]:
        """The pieces of one row, in order."""
        return self.plan[self.first[row] : self.first[row] + self._count[row]]

    def is_window(self, number: int) -> bool:
        """Whether the piece is one of several of its row."""
        return self._count[self.plan[number].row] > 1

    def seen(self, number: int) -> str:
        """The residues of a piece."""
        piece = self.plan[number]
        return self.sequences[piece.row][piece.start : piece.end]

    def residues(self) -> List[int]:
        """Per row, how many residues get into the vectors."""
        return [self.of_row(row)[-1].end for row in range(len(self.sequences))]

    def flag(self, number: int) -> Flag:
        """What is to be told of a piece."""
        if self.is_window(number):
            return Flag.WINDOWED
        piece = self.plan[number]
        return Flag.TRUNCATED if piece.residues < len(self.sequences[piece.row]) else Flag(0)

    def rows_without(self, missing: Iterable[int]) -> List[int]:
        """Rows none of whose pieces is missing."""
        return sorted(set(self.first).difference(self.plan[number].row for number in missing))

    def failed_rows(self, failed: Dict[int, str]) -> Dict[int, str]:
        """Reasons by row of those by piece; of a sequence in windows, the first one's."""
        found: Dict[int, str] = {}
        for number, reason in sorted(failed.items()):
            piece = self.plan[number]
            found.setdefault(piece.row, f"residues {piece.start + 1} to {piece.end}: {reason}" if self.is_window(number) else reason)
        return found
