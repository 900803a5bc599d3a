"""A dataset of vectors that is filled once, from its first row to its last, and hashed as it is written instead of read back.

What is hashed is what was handed over, so a byte that the disk changes is found by whoever reads the file; reading it back at
once would show the page cache only.
"""

from concurrent.futures import Executor, Future
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import h5py
import numpy as np

from protembed.hdf5 import Place, create_compressed, create_contiguous
from protembed.seals import started_checksum


class Form(NamedTuple):
    """How vectors lie in the file."""

    dtype: str = "float32"  # or float16
    compression: str = "none"  # or gzip, lzf: see hdf5.create_compressed

    def create(self, file: h5py.File, name: str, shape: Tuple[int, int]) -> h5py.Dataset:
        """An empty dataset of this form."""
        if self.compression == "none" or not shape[0]:
            return create_contiguous(file, name, shape, self.dtype)
        return create_compressed(file, name, shape, self.dtype, self.compression)


class VectorRows:
    """Takes the rows of one dataset in order. beside: one thread, which hashes and writes them while the caller reads the next."""

    def __init__(self, shape: Tuple[int, int], dtype: str, put: Callable[[int, np.ndarray], object], beside: Executor):
        self.shape, self.dtype, self._put, self._beside = shape, np.dtype(dtype), put, beside
        self.filled = 0  # rows
        self._digest = started_checksum(self.dtype, shape)
        self._last: Optional[Future] = None

    def append(self, pieces: Sequence[np.ndarray]) -> None:
        """The next rows, in arrays of the dataset's type, not to be changed any more. OSError when those before cannot be written."""
        self._finish_last()
        self._last = self._beside.submit(self._write, self.filled, pieces)
        self.filled += sum(map(len, pieces))

    def _write(self, row: int, pieces: Sequence[np.ndarray]) -> None:
        for piece in pieces:
            rows = np.ascontiguousarray(piece)
            self._digest.update(rows.data)
            self._put(row, rows)
            row += len(rows)

    def _finish_last(self) -> None:
        if self._last:
            self._last.result()

    def checksum(self) -> str:
        """Of all rows, as seals.checksum_of has it; all are written then. OSError."""
        assert self.filled == self.shape[0], f"{self.filled} rows of {self.shape[0]}"
        self._finish_last()
        return self._digest.hexdigest()


def rows_in_file(file: h5py.File, name: str, shape: Tuple[int, int], form: Form, descriptor: int, beside: Executor) -> VectorRows:
    """A new dataset of the file. descriptor: of the same file, for writing past HDF5 into a place that is this dataset's alone."""
    dataset = form.create(file, name, shape)
    if dataset.chunks is None:
        place = Place.of(dataset)
        return VectorRows(shape, form.dtype, lambda row, rows: place.write(descriptor, row, rows), beside)

    def put(row: int, rows: np.ndarray) -> None:
        dataset[row : row + len(rows)] = rows

    return VectorRows(shape, form.dtype, put, beside)


class Part(NamedTuple):
    """Rows of a virtual dataset that stand in another file under the same name."""

    file: str  # its name, in the folder of the virtual one
    rows: int


def rows_elsewhere(file: h5py.File, name: str, shape: Tuple[int, int], dtype: str, parts: List[Part], beside: Executor) -> VectorRows:
    """A new virtual dataset: its rows are those of `parts`, one part behind the other, and only hashed here.

    Where a part is missing HDF5 shows its fill value: NaN, so that nobody takes it for a vector.
    """
    assert sum(part.rows for part in parts) == shape[0], "parts that do not make up the whole"
    layout, start = h5py.VirtualLayout(shape, dtype), 0
    for part in parts:
        layout[start : start + part.rows] = h5py.VirtualSource(part.file, name, (part.rows, shape[1]), dtype)
        start += part.rows
    file.create_virtual_dataset(name, layout, fillvalue=np.nan)
    return VectorRows(shape, dtype, lambda row, rows: None, beside)
