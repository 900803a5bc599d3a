"""Rows of a vector dataset, read in any order and checked on the way: what was read need not be read once more for its checksum."""

import h5py
import numpy as np

from protembed.hdf5 import Place
from protembed.seals import BLOCK_BYTES, CHECKSUM, compare, started_checksum


class CheckedRows:
    """A contiguous dataset of a sealed file. Nothing that was read of it may be relied on before check() has returned.

    Bytes are hashed in the order in which they stand, when they are read for the first time; a reader that leaves rows out has
    them read for it. So a file that is read from its first row to its last, as the merge reads chunk files, is read once.
    """

    def __init__(self, dataset: h5py.Dataset, descriptor: int):
        self._descriptor, self._place, self._rows = descriptor, Place.of(dataset), len(dataset)
        self.width, self.dtype = dataset.shape[1], dataset.dtype
        self._wanted, self._name = dataset.attrs.get(CHECKSUM), dataset.name.lstrip("/")
        self._digest = started_checksum(dataset.dtype, dataset.shape)
        self._hashed = 0  # rows

    def read(self, row: int, out: np.ndarray) -> None:
        """Fill `out` (rows, width), contiguous and of this type, from `row` on. CorruptStore when the file ends before."""
        self._hash_until(row)
        self._place.read(self._descriptor, row, out)
        self._hash(out[self._hashed - row :])  # none of it, when all was hashed before

    def check(self, file_name: str) -> None:
        """CorruptStore unless the dataset's checksum is that of all its rows."""
        self._hash_until(self._rows)
        compare(self._wanted, self._digest.hexdigest(), self._name, file_name)

    def _hash_until(self, row: int) -> None:
        most = max(1, BLOCK_BYTES // (self.width * self.dtype.itemsize))
        while self._hashed < row:
            block = np.empty((min(most, row - self._hashed), self.width), self.dtype)
            self._place.read(self._descriptor, self._hashed, block)
            self._hash(block)

    def _hash(self, rows: np.ndarray) -> None:
        self._digest.update(rows.data)
        self._hashed += len(rows)
