"""Which sequences are embedded a second time to prove the first: a random sample that depends on nothing but content."""

import heapq
from typing import Dict, Generic, List, Tuple, TypeVar

import numpy as np

LONGEST_VERIFIED = 3000  # residues; the reference's attention grows with the square: 720 MB for 20 heads
Place = TypeVar("Place")


class Sampler(Generic[Place]):
    """Keeps the longest sequence and those with the smallest digests: SHA-256 draws evenly, and the same for equal input."""

    def __init__(self, count: int):
        self._count = count
        self._largest_first: List[Tuple[int, bytes]] = []  # heap of (minus the digest's number, digest)
        self._kept: Dict[bytes, Tuple[str, Place]] = {}
        self._longest: Tuple[int, bytes, str, Place] = (0, b"", "", None)

    def may_want(self, digests: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """(n,) bool, False where add() would do nothing. digests: (n, 32) uint8, lengths: (n,) of their sequences."""
        if not self._count:
            return np.zeros(len(lengths), bool)
        if len(self._kept) < self._count:
            return lengths <= LONGEST_VERIFIED
        largest = int.from_bytes(self._largest_first[0][1][:8], "big")
        small = digests[:, :8].copy().view(">u8")[:, 0] <= largest
        return (lengths <= LONGEST_VERIFIED) & (small | (lengths > self._longest[0]))

    def add(self, digest: bytes, sequence: str, place: Place) -> None:
        """One of the different sequences, and where it is; none longer than LONGEST_VERIFIED is ever chosen."""
        if not self._count or len(sequence) > LONGEST_VERIFIED:
            return
        if len(sequence) > self._longest[0]:
            self._longest = len(sequence), digest, sequence, place
        rank = -int.from_bytes(digest, "big")
        if len(self._kept) < self._count:
            heapq.heappush(self._largest_first, (rank, digest))
        elif rank > self._largest_first[0][0]:
            del self._kept[heapq.heappushpop(self._largest_first, (rank, digest))[1]]
        else:
            return
        self._kept[digest] = sequence, place

    def chosen(self) -> Dict[bytes, Tuple[str, Place]]:
        """Digest -> (sequence, place), at most `count`; the longest first."""
        if not self._kept:
            return {}
        _, digest, sequence, place = self._longest
        others = sorted(set(self._kept) - {digest})[: self._count - 1]
        return {digest: (sequence, place), **{other: self._kept[other] for other in others}}
