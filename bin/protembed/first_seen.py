"""Which came first: a hash table of 128-bit keys that takes them by thousands. numpy only."""

import numpy as np

FREE = -1
BLOCK = 1 << 16


class FirstSeen:
    """Numbers keys 0, 1, 2, ... as they come, and tells of each the number of the first that was equal.

    Open addressing, linear probing. Memory: 24 to 32 bytes per key, where a dictionary has 150. The keys must be random in
    their lower bits: digests, or hashes under a secret.
    """

    def __init__(self):
        self._keys = bytearray()  # 16 bytes each
        self._slots = np.full(4 * BLOCK, FREE, np.int32)

    def __len__(self) -> int:
        return len(self._keys) // 16

    def add(self, keys: np.ndarray) -> np.ndarray:
        """keys: (n, 2) uint64. Returns (n,) int64: own number where a key is new, else the number of its first occurrence."""
        start = len(self)
        self._keys += np.ascontiguousarray(keys, np.uint64).data
        if 2 * len(self) > len(self._slots):
            self._grow(start)
        return self._place(start, len(self))

    def _grow(self, placed: int) -> None:
        size = 1 << (4 * len(self) - 1).bit_length()
        self._slots = None  # not both in memory
        self._slots = np.full(size, FREE, np.int32)
        for start in range(0, placed, BLOCK):
            self._place(start, min(start + BLOCK, placed))

    def _place(self, start: int, stop: int) -> np.ndarray:
        known = np.frombuffer(self._keys, np.uint64).reshape(-1, 2)
        mask = len(self._slots) - 1
        first = np.empty(stop - start, np.int64)
        pending = np.arange(start, stop, dtype=np.int32)
        slots = (known[start:stop, 0] & np.uint64(mask)).astype(np.int64)
        while len(pending):
            claimed = np.flatnonzero(self._slots[slots] == FREE)[::-1]  # backwards: of several claims the first in order is written last
            self._slots[slots[claimed]] = pending[claimed]
            occupants = self._slots[slots]
            first[pending - start] = occupants
            met = np.flatnonzero(occupants != pending)  # few: the table is at most half full
            its, here = known[occupants[met]], known[pending[met]]
            other = met[(its[:, 0] != here[:, 0]) | (its[:, 1] != here[:, 1])]
            pending, slots = pending[other], (slots[other] + 1) & mask
        return first
