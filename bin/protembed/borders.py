"""Where chunks end: how much a chunk should hold, and which sequences want a border behind them."""

from pathlib import Path
from typing import Sequence

import numpy as np

CHUNKS_AIMED_AT = 32  # unless that makes them too short to repay their start, or too long
COMPRESSED = {".gz": 1.7, ".bz2": 1.9, ".zst": 1.8}  # residues per byte of a compressed proteome, measured on UniProt's


def chunk_residues_for(paths: Sequence[Path], least: int, most: int) -> int:
    """Residues per chunk for an input of this size: a power of two, so that a growing input keeps its borders for long.

    The first that is not below `least`, unless that is above `most`.
    """
    letters = sum(path.stat().st_size * COMPRESSED.get(path.suffix, 1.0) for path in paths if path.exists())
    smallest, largest = 1 << (least - 1).bit_length(), 1 << (most.bit_length() - 1)
    return min(largest, max(smallest, 1 << (int(letters / CHUNKS_AIMED_AT) | 1).bit_length() - 1))


def are_borders(digests: np.ndarray, costs: np.ndarray, aim: int) -> np.ndarray:
    """(n,) bool: which sequences want a border behind them, with the chance cost / (aim / 2) that their digests decide.

    digests: (n, 32) uint8; costs: (n,) int64.
    """
    numbers, half = digests[:, :8].copy().view(">u8")[:, 0], aim // 2
    wanted = numbers.astype(np.float64) * half < costs * (2.0**64 * (1 + 1e-9))  # and perhaps a few more, for a double is coarse
    for place in np.flatnonzero(wanted).tolist():
        wanted[place] = int(numbers[place]) * half < int(costs[place]) << 64
    return wanted
