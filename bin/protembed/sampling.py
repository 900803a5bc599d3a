"""Which sequences are embedded a second time to prove the first: a random sample that depends on nothing but content."""

import heapq
from typing import Dict, List, Tuple

LONGEST_VERIFIED = 3000  # residues; the reference's attention grows with the square: 720 MB for 20 heads


class Sampler:
    """Keeps the longest sequence and those with the smallest digests: SHA-256 draws evenly, and the same for equal input."""

    def __init__(self, count: int):
        self._count = count
        self._largest_first: List[Tuple[int, bytes]] = []  # heap of (minus the digest's number, digest)
        self._kept: Dict[bytes, Tuple[str, str]] = {}
        self._longest: Tuple[int, bytes, str, str] = (0, b"", "", "")

    def add(self, digest: bytes, sequence: str, chunk: str) -> None:
        """One of the different sequences; none longer than LONGEST_VERIFIED is ever chosen."""
        if not self._count or len(sequence) > LONGEST_VERIFIED:
            return
        if len(sequence) > self._longest[0]:
            self._longest = len(sequence), digest, sequence, chunk
        rank = -int.from_bytes(digest, "big")
        if len(self._kept) < self._count:
            heapq.heappush(self._largest_first, (rank, digest))
        elif rank > self._largest_first[0][0]:
            del self._kept[heapq.heappushpop(self._largest_first, (rank, digest))[1]]
        else:
            return
        self._kept[digest] = sequence, chunk

    def chosen(self) -> Dict[bytes, Tuple[str, str]]:
        """Digest -> (sequence, chunk), at most `count`; the longest first."""
        if not self._kept:
            return {}
        _, digest, sequence, chunk = self._longest
        others = sorted(set(self._kept) - {digest})[: self._count - 1]
        return {digest: (sequence, chunk), **{other: self._kept[other] for other in others}}
