"""Vectors in the type of the file, or the record with a number that this type cannot hold."""

from typing import Iterable, Iterator

import numpy as np

from protembed.errors import BadOption
from protembed.layout import rows_of
from protembed.records import RecordBlock


def rounded(pieces: Iterable[np.ndarray], dtype: np.dtype, name: str, block: RecordBlock) -> Iterator[np.ndarray]:
    """The pieces of one vector dataset in this type. BadOption names the first record of the block with a number that it cannot hold."""
    before = 0  # rows
    for piece in pieces:
        if piece.dtype == dtype:
            before += len(piece)
            yield piece
            continue
        with np.errstate(over="ignore"):
            result = piece.astype(dtype)
        bad = ~np.isfinite(result)
        if bad.any():
            first = int(np.flatnonzero(bad.any(axis=1))[0])
            record = block.ids[int(np.searchsorted(np.cumsum(rows_of(name, block.residues)), before + first, "right"))]
            raise BadOption(f"{record} has the number {piece[first][bad[first]][0]:g} in {name}, which {dtype} cannot hold; use --store_dtype float32")
        before += len(piece)
        yield result
