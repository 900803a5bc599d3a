"""Contiguous HDF5 datasets that are filled and read at disk speed, and checksums over them.

HDF5 has no journal: a file that is open for writing when its process dies can be unreadable. So every file of ours is
written under a temporary name (atomic.replacing) and nothing is ever appended to a finished one.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import Iterator

import h5py
import numpy as np

from protembed.errors import CorruptStore, first_line

BLOCK_BYTES = 16 << 20
CHECKSUM = "sha256"  # attribute of a dataset


def create_contiguous(file: h5py.File, name: str, shape: tuple, dtype) -> h5py.Dataset:
    """A dataset whose bytes lie in one piece at a place known now (not at first write): it can be memory-mapped."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    file.require_group(name.rpartition("/")[0] or "/")
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype), logical=True), h5py.h5s.create_simple(shape), properties, links)
    return file[name]


def map_dataset(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    """The dataset's bytes in `path` as a writable array: rows in any order without a call into HDF5 for each.

    The file must be flushed before and must not be written through h5py until the mapping is gone.
    """
    if dataset.size == 0:
        return np.empty(dataset.shape, dataset.dtype)
    return np.memmap(path, dtype=dataset.dtype, mode="r+", offset=dataset.id.get_offset(), shape=dataset.shape)


def blocks_of(dataset: h5py.Dataset) -> Iterator[np.ndarray]:
    """The dataset in pieces of whole rows, about 16 MiB each."""
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, len(dataset), step):
        yield dataset[start : start + step]


def checksum_of(dataset: h5py.Dataset) -> str:
    """SHA-256 over dtype, shape and bytes of a dataset of numbers, or over its strings one per line."""
    digest = hashlib.sha256(f"{dataset.dtype.str}{dataset.shape}".encode())
    for block in blocks_of(dataset):
        digest.update(b"\n".join([*block.tolist(), b""]) if block.dtype.kind == "O" else np.ascontiguousarray(block).data)
    return digest.hexdigest()


@contextlib.contextmanager
def opened(path: Path, wanted_format: str) -> Iterator[h5py.File]:
    """Open one of our files for reading; CorruptStore when it is not one, or not a complete one."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise CorruptStore(f"{path.name} cannot be read as HDF5 ({first_line(error)}); it is missing or torn") from error
    with file:
        if file.attrs.get("format") != wanted_format:
            raise CorruptStore(f"{path.name} is not a {wanted_format} file")
        if file.attrs.get("complete") != 1:
            raise CorruptStore(f"{path.name} was not finished by its writer")
        yield file
