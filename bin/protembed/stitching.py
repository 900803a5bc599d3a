"""Vectors of windows become those of their sequence: residues averaged where windows overlap, bos the mean of the windows'.

`mean` is the mean over the averaged residues. It is linear in them, so each window contributes its residues weighted by their
shares (see `shares`) and nothing per residue has to be kept for it.
"""

from typing import Dict, Iterable, Iterator, Optional, Sequence

import torch
from torch import Tensor

from protembed.batch import Batch
from protembed.layout import CONTACTS, is_per_residue, rows_of
from protembed.windows import Piece, Pieces


def coverage(windows: Sequence[Piece]) -> Tensor:
    """(L,) fp32: how many of a sequence's windows each of its residues is in."""
    counts_L = torch.zeros(windows[-1].end)
    for window in windows:
        counts_L[window.start : window.end] += 1
    return counts_L


def shares(pieces: Pieces, number: int) -> Optional[Tensor]:
    """(residues,) fp32: what each residue of a window contributes to its average; None for a sequence in one piece."""
    piece = pieces.plan[number]
    return coverage(pieces.of_row(piece.row))[piece.start : piece.end].reciprocal() if pieces.is_window(number) else None


class Stitcher:
    """Holds the sequences whose windows have not all come: with a vector per residue, L x D x layers fp32 numbers for each.

    Packs take windows in order, so that is one sequence, or a few more after a resume with another pack budget.
    """

    def __init__(self, pieces: Pieces):
        self.pieces = pieces
        self._open: Dict[int, _Row] = {}

    def whole(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches of pieces, in any order, become batches of rows; a row that lacks a window never comes."""
        for batch in batches:
            numbers = batch.rows.tolist()
            rows = torch.tensor([self.pieces.plan[number].row for number in numbers], dtype=torch.int64)
            alone = torch.tensor([not self.pieces.is_window(number) for number in numbers], dtype=torch.bool)
            if alone.all():
                yield batch._replace(rows=rows)
                continue
            if alone.any():
                yield batch.of_rows(alone)._replace(rows=rows[alone])
            yield from filter(None, map(self._add, _singles(batch.of_rows(~alone))))

    def _add(self, window: Batch) -> Optional[Batch]:
        number = int(window.rows)
        row = self.pieces.plan[number].row
        held = self._open.setdefault(row, _Row(self.pieces.of_row(row)))
        held.add(number - self.pieces.first[row], window)
        return self._open.pop(row).stitched() if held.is_whole else None


class _Row:
    """One sequence whose windows come in. They are added in order whenever they come: equal windows give equal bits."""

    def __init__(self, windows: Sequence[Piece]):
        self.windows = windows
        self._waiting: Dict[int, Batch] = {}
        self._next, self._flag = 0, torch.zeros(1, dtype=torch.uint8)
        self._sums: Dict[str, Tensor] = {}

    @property
    def is_whole(self) -> bool:
        return self._next == len(self.windows)

    def add(self, place: int, window: Batch) -> None:
        self._waiting[place] = window
        while self._next in self._waiting:
            self._lay(self.windows[self._next], self._waiting.pop(self._next))
            self._next += 1

    def _lay(self, place: Piece, window: Batch) -> None:
        self._flag = self._flag | window.flags
        length = self.windows[-1].end
        for name, part in window.vectors.items():
            if name == CONTACTS:
                self._sums[name] = part[:0].double()  # a sequence in windows is too long for them
            elif is_per_residue(name):
                self._sums.setdefault(name, torch.zeros(length, part.shape[1]))[place.start : place.end] += part
            else:
                weight = place.residues / length if name.endswith("/mean") else 1 / len(self.windows)
                self._sums[name] = self._sums.get(name, 0) + part.double() * weight

    def stitched(self) -> Batch:
        counts_L1 = coverage(self.windows)[:, None]
        vectors = {name: part.div_(counts_L1) if is_per_residue(name) else part.float() for name, part in self._sums.items()}
        return Batch(torch.tensor([self.windows[0].row]), self._flag, torch.tensor([len(counts_L1)]), vectors)


def _singles(batch: Batch) -> Iterator[Batch]:
    parts = {name: part.split(rows_of(name, batch.residues).tolist()) for name, part in batch.vectors.items()}
    for index in range(len(batch.rows)):
        here = slice(index, index + 1)
        yield Batch(batch.rows[here], batch.flags[here], batch.residues[here], {name: part[index] for name, part in parts.items()})
