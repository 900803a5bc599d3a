"""Which sequences earlier embeddings.h5 hold, and in which file and row. Memory: 24 bytes per record of them."""

from typing import Sequence, Tuple

import numpy as np


class Stock:
    """The rows of open Embeddings by digest; of several with one digest the first row of the first file."""

    def __init__(self, files: Sequence):
        self._files = files
        self._starts = np.cumsum([0, *map(len, files)])
        self._keys, self._places = np.unique(np.concatenate([_keys(file.digests) for file in files]), return_index=True)
        names = [file.path.name for file in files]
        self.titles = [name if names.count(name) == 1 else f"{name} (file {number} of --reuse)" for number, name in enumerate(names, 1)]

    def find(self, digests: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """(n, 32) uint8 -> files and rows, (n,) int64 each; file -1: in none of them."""
        keys = _keys(digests)
        nearest = np.minimum(np.searchsorted(self._keys, keys), max(0, len(self._keys) - 1))
        places = self._places[nearest] if len(self._keys) else np.zeros(len(keys), np.int64)
        files = np.searchsorted(self._starts, places, "right") - 1
        rows = places - self._starts[files]
        found = np.zeros(len(keys), bool)
        for number, file in enumerate(self._files):
            here = np.flatnonzero(files == number) if len(self._keys) else np.zeros(0, np.int64)
            found[here] = (file.digests[rows[here]] == digests[here]).all(axis=1)  # the key is a part of the digest
        return np.where(found, files, -1), np.where(found, rows, -1)

    def is_exact(self, file: int) -> bool:
        """Whether the vectors are as they were computed, not rounded."""
        return self._files[file].attributes["store_dtype"] == "float32"


def _keys(digests: np.ndarray) -> np.ndarray:
    """(n,) uint64: the first 8 bytes of each. A sequence hidden by another with these bytes is computed again, no more."""
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]
