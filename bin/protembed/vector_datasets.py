"""How the vectors of embeddings.h5 lie in it: its empty datasets, to be filled by filling.py."""

from typing import Callable, List, NamedTuple, Tuple, Union

import h5py
import numpy as np

from protembed.hdf5 import Place, create_compressed, create_contiguous

Put = Callable[[int, np.ndarray], object]  # (row, rows) into a dataset


class Target(NamedTuple):
    """An empty dataset of vectors."""

    shape: Tuple[int, int]
    where: Union[Place, Put]  # in its file, to be written past HDF5 into a place that is this dataset's alone; or a function that writes rows


class Form(NamedTuple):
    """How vectors lie in the file."""

    dtype: str = "float32"  # or float16
    compression: str = "none"  # or gzip, lzf: see hdf5.create_compressed

    def create(self, file: h5py.File, name: str, shape: Tuple[int, int]) -> Target:
        """An empty dataset of this form."""
        if self.compression == "none" or not shape[0]:
            return Target(shape, Place.of(create_contiguous(file, name, shape, self.dtype)))
        dataset = create_compressed(file, name, shape, self.dtype, self.compression)

        def put(row: int, rows: np.ndarray) -> None:
            dataset[row : row + len(rows)] = rows

        return Target(shape, put)


class Part(NamedTuple):
    """Rows of a virtual dataset that stand in another file under the same name."""

    file: str  # its name, in the folder of the virtual one
    rows: int


def create_elsewhere(file: h5py.File, name: str, shape: Tuple[int, int], dtype: str, parts: List[Part]) -> None:
    """A new virtual dataset: its rows are those of `parts`, one part behind the other.

    Where a part is missing HDF5 shows its fill value: NaN, so that nobody takes it for a vector.
    """
    assert sum(part.rows for part in parts) == shape[0], "parts that do not make up the whole"
    layout, start = h5py.VirtualLayout(shape, dtype), 0
    for part in parts:
        layout[start : start + part.rows] = h5py.VirtualSource(part.file, name, (part.rows, shape[1]), dtype)
        start += part.rows
    file.create_virtual_dataset(name, layout, fillvalue=np.nan)
