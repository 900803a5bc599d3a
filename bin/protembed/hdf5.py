"""HDF5 datasets: contiguous ones that are filled at disk speed, or compressed ones.

HDF5 has no journal: a file that is open for writing when its process dies can be unreadable. So every file of ours is
written under a temporary name (atomic.replacing) and nothing is ever appended to a finished one. Nor does it survive a disk
that fails: see _Enduring.
"""

import contextlib
import io
import math
import os
import resource
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Optional, Tuple, Union

import h5py
import numpy as np

from protembed.errors import BadOption, CorruptStore, Transient

OTHER_FILES = 32  # that a process may have open at once, whatever it is there for
CHUNK_BYTES = 1 << 16  # of a compressed dataset: four times as large saves 2 %, and one row takes three times as long (benchmarks/storing.py)


class _Enduring(io.FileIO):
    """A file whose faults HDF5 does not see: to close a file that cannot be written is beyond it, it dies by SIGSEGV.

    The first fault is kept in `fault`; from then on nothing is written, and zeros are read.
    """

    fault: Optional[OSError] = None

    def _unless_faulty(self, call: Callable[..., int], *arguments) -> int:
        try:
            return 0 if self.fault else call(self, *arguments)
        except OSError as error:
            self.fault = error
            return 0

    def write(self, content) -> int:
        rest = memoryview(content)
        while rest and (done := self._unless_faulty(io.FileIO.write, rest)):
            rest = rest[done:]
        return len(content)

    def readinto(self, content) -> int:
        rest = memoryview(content)
        while rest and (done := self._unless_faulty(io.FileIO.readinto, rest)):
            rest = rest[done:]
        rest[:] = bytes(len(rest))  # behind the end of the file: space that HDF5 has and has not written yet
        return len(content)

    def truncate(self, size: Optional[int] = None) -> int:
        return self._unless_faulty(io.FileIO.truncate, size)

    def raise_fault(self) -> None:
        """The OSError, if there was one."""
        if self.fault:
            raise self.fault


def allow_open_files(count: int) -> None:
    """Let this process open so many files beside those that it has, and the few of any; BadOption when the system does not."""
    count += len(os.listdir("/dev/fd")) + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count > hard:
        raise BadOption(f"{count} files are to be open at once, and the limit is {hard}; raise it (ulimit -Hn), or make fewer chunks (--chunk_residues)")
    if soft != resource.RLIM_INFINITY and count > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@contextlib.contextmanager
def writing(path: Path, mode: str) -> Iterator[Tuple[h5py.File, Callable[[], None]]]:
    """Yield an HDF5 file open for writing (mode w or r+), and a function that raises OSError if the disk has failed so far.

    The end of the block raises it, too; call the function where it would be long until then.
    """
    with _Enduring(path, {"w": "x+", "r+": "r+"}[mode]) as enduring:
        try:
            with h5py.File(enduring, mode) as file:
                yield file, enduring.raise_fault
        finally:
            enduring.raise_fault()  # whatever HDF5 made of it


def create_contiguous(file: h5py.File, name: str, shape: tuple, dtype) -> h5py.Dataset:
    """A dataset whose bytes lie in one piece at a place known now (not at first write): see Place."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    file.require_group(name.rpartition("/")[0] or "/")
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype), logical=True), h5py.h5s.create_simple(shape), properties, links)
    return file[name]


def create_compressed(file: h5py.File, name: str, shape: tuple, dtype, compression: str) -> h5py.Dataset:
    """The same in pieces of whole rows that are compressed one by one, bytes of equal weight side by side. compression: gzip, lzf."""
    rows = CHUNK_BYTES // (np.dtype(dtype).itemsize * math.prod(shape[1:]))
    chunks = max(1, min(rows, shape[0])), *shape[1:]
    level = {"gzip": 1}.get(compression)  # 9 saves 0.7 % more and takes three times as long
    return file.create_dataset(name, shape, dtype, chunks=chunks, compression=compression, compression_opts=level, shuffle=True, fillvalue=None)


class StoredRows:
    """The rows of a compressed or virtual dataset, indexed as an array's are, of which only what is asked for is read. For as long as its file is open."""

    def __init__(self, dataset: h5py.Dataset):
        self._dataset, self.shape, self.dtype = dataset, dataset.shape, dataset.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which) -> np.ndarray:
        if isinstance(which, (int, np.integer)) or (isinstance(which, slice) and (which.step or 1) > 0):
            return self._dataset[which]
        rows, places = np.unique(np.arange(len(self))[which], return_inverse=True)  # HDF5 wants them rising, each once
        return self._dataset[rows][places]


def mapped(dataset: h5py.Dataset, path: Path) -> Union[np.ndarray, StoredRows]:
    """The rows of a dataset of the open file called `path`, of which only what is asked for is read.

    They are those of this file whatever gets its name later: every file that a virtual dataset stands in is opened now, not at its
    first use. CorruptStore when the file ends within them, Transient when another has its name already.
    """
    if dataset.size and (dataset.chunks or dataset.is_virtual):
        # Not `dataset` itself: asked for its chunks it keeps a list of properties open, and one of a virtual dataset that is open
        # when the process ends is HDF5's death (SIGSEGV), as in every spawned worker of torch's DataLoader.
        spaces = [source.vspace for source in dataset.virtual_sources()] if dataset.is_virtual else []
        rows = StoredRows(h5py.Dataset(dataset.id))
        for space in spaces:
            if space.get_select_npoints():
                rows[int(space.get_select_bounds()[0][0])]
        return rows
    if dataset.size == 0 or dataset.id.get_offset() is None:  # by another program
        return dataset[:]
    with open(path, "rb") as file:  # not HDF5's descriptor: the map would keep its lock
        found = os.fstat(file.fileno())
        if not os.path.samestat(found, os.fstat(dataset.file.id.get_vfd_handle())):
            raise Transient(f"{path.name} was replaced while it was opened; open it again")
        if dataset.id.get_offset() + dataset.nbytes > found.st_size:
            raise CorruptStore(f"{path.name} is torn: it ends within {dataset.name}")
        return np.memmap(file, dataset.dtype, "r", dataset.id.get_offset(), dataset.shape)


class Place(NamedTuple):
    """Where the rows of a contiguous dataset stand in its file: they are read and written in any order without a call into HDF5 for each.

    This dataset must not be written through h5py meanwhile. Not a memory mapping: when the disk is full, a write to one is no
    error but the death of the process by SIGBUS; and what was read of one counts as the process's memory.
    """

    offset: int  # bytes
    row_shape: Tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> "Place":
        """Of a contiguous dataset; CorruptStore when it is another program's and lies elsewise."""
        offset = dataset.id.get_offset()
        if offset is None and dataset.size:
            raise CorruptStore(f"{dataset.name} does not lie in one piece, as our datasets do")
        return cls(offset or 0, dataset.shape[1:], dataset.dtype)

    def write(self, descriptor: int, row: int, values: np.ndarray) -> None:
        """`values` (rows, *row_shape) from `row` on. OSError when they cannot be written."""
        assert values.shape[1:] == self.row_shape, "rows of another width"
        rest, offset = np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8).data, self._offset_of(row)
        while rest:
            written = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[written:], offset + written

    def read(self, descriptor: int, row: int, out: np.ndarray) -> None:
        """Fill `out` (rows, *row_shape), contiguous and of this type, from `row` on. CorruptStore when the file ends before."""
        rest, offset = out.reshape(-1).view(np.uint8).data, self._offset_of(row)
        while rest:
            count = os.preadv(descriptor, [rest], offset)
            if not count:
                raise CorruptStore("the file is torn: it ends within a dataset")
            rest, offset = rest[count:], offset + count

    def _offset_of(self, row: int) -> int:
        return self.offset + row * math.prod(self.row_shape) * self.dtype.itemsize
