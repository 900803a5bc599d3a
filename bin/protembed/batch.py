"""Vectors of some rows of a chunk: what a forward pass gives, what a checkpoint file holds, what a chunk file takes."""

from typing import Any, Dict, List, NamedTuple, Sequence

import torch
from torch import Tensor

from protembed.layout import is_ragged, rows_of


class Batch(NamedTuple):
    """Tensors on the CPU; row i of `rows` owns row i of mean and bos, and the next so many of per_tok and contacts (rows_of)."""

    rows: Tensor  # (P,) int64, row numbers of the chunk
    flags: Tensor  # (P,) uint8, layout.Flag
    residues: Tensor  # (P,) int64, residues that were embedded
    vectors: Dict[str, Tensor]  # by layout.vector_name; fp32

    @property
    def nbytes(self) -> int:
        return sum(vector.nbytes for vector in self.vectors.values())

    def finite(self) -> Tensor:
        """(P,) bool: whether all numbers of a row are finite."""
        verdict = torch.ones(len(self.rows), dtype=torch.bool)
        for name, part in self.vectors.items():
            fine = finite_rows(part)
            if is_ragged(name):
                fine = torch.stack([row.all() for row in fine.split(rows_of(name, self.residues).tolist())])
            verdict &= fine
        return verdict

    def of_rows(self, keep: Sequence[bool]) -> "Batch":
        """Only the rows for which `keep` is true."""
        keep = torch.as_tensor(keep)
        vectors = {name: part[keep.repeat_interleave(rows_of(name, self.residues))] for name, part in self.vectors.items()}
        return Batch(self.rows[keep], self.flags[keep], self.residues[keep], vectors)

    @classmethod
    def joined(cls, parts: List["Batch"]) -> "Batch":
        """Several batches laid end to end."""
        if len(parts) == 1:
            return parts[0]
        vectors = {name: torch.cat([part.vectors[name] for part in parts]) for name in parts[0].vectors}
        return cls(*(torch.cat(column) for column in zip(*(part[:3] for part in parts))), vectors)

    @classmethod
    def stored(cls, parts: List["Batch"]) -> Dict[str, Any]:
        """Several batches as one file holds them: joined, but of vectors per residue a list, since copying them costs as much as hashing."""
        pieces = {name: [_alone(part.vectors[name]) for part in parts] for name in parts[0].vectors if is_ragged(name)}
        small = cls.joined([part._replace(vectors={name: value for name, value in part.vectors.items() if name not in pieces}) for part in parts])
        return dict(small._asdict(), vectors={name: _alone(value) for name, value in small.vectors.items()} | pieces)

    @classmethod
    def restored(cls, stored: Dict[str, Any]) -> "Batch":
        """What stored() made."""
        vectors = {name: torch.cat(value) if is_ragged(name) else value for name, value in stored["vectors"].items()}
        return cls(stored["rows"], stored["flags"], stored["residues"], vectors)

    def is_well_formed(self, row_count: int) -> bool:
        """Different rows of a chunk of `row_count`, and for each of them what it owns of finite fp32 vectors."""
        rows = self.rows.tolist()
        lengths = {name: int(rows_of(name, self.residues).sum()) for name in self.vectors}
        return (
            len(set(rows)) == len(rows) == len(self.flags) == len(self.residues)
            and all(0 <= row < row_count for row in rows)
            and len(lengths) > 0
            and all(part.dtype == torch.float32 and len(part) == lengths[name] for name, part in self.vectors.items())
            and all(finite_rows(part).all() for part in self.vectors.values())
        )


def _alone(values: Tensor) -> Tensor:
    """As they are, without what lies around them in memory: torch.save would write that too."""
    return values if values.untyped_storage().nbytes() == values.nbytes else values.clone()


def finite_rows(values: Tensor) -> Tensor:
    """(n,) bool for (n, D): whether all numbers of a row are finite.

    No sum that has an infinity or NaN in it is finite, and sums are many times as fast as isfinite() on every number; a finite
    row whose sum overflows gets the exact test.
    """
    fine = values.sum(dim=1).isfinite()
    if not fine.all():
        fine[~fine] = values[~fine].isfinite().all(dim=1)
    return fine
