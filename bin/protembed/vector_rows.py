"""A dataset of vectors that is filled once, from its first row to its last, and hashed as it is written instead of read back.

What is hashed is what was handed over, so a byte that the disk changes is found by whoever reads the file; reading it back at
once would show the page cache only.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Deque, Iterable, Iterator, List, NamedTuple, Protocol, Sequence, Tuple

import h5py
import numpy as np
from xxhash import xxh3_128

from protembed.hdf5 import Place, create_compressed, create_contiguous
from protembed.records import RecordBlock
from protembed.seals import started_checksum

MOST_BLOCKS = 32  # without vectors, that wait for their turn: what the caller has still to do at the end is done beside them
MOST_PIECES = 1  # of vectors, that is written while the next is read: one may be a record of 35,000 residues, 179 MB
Put = Callable[[int, np.ndarray], object]  # (row, rows) into a dataset


class Form(NamedTuple):
    """How vectors lie in the file."""

    dtype: str = "float32"  # or float16
    compression: str = "none"  # or gzip, lzf: see hdf5.create_compressed

    def create(self, file: h5py.File, name: str, shape: Tuple[int, int]) -> h5py.Dataset:
        """An empty dataset of this form."""
        if self.compression == "none" or not shape[0]:
            return create_contiguous(file, name, shape, self.dtype)
        return create_compressed(file, name, shape, self.dtype, self.compression)


class Source(Protocol):
    """Where a writer's vectors come from: see merging.VectorFiles."""

    def pieces(self, block: RecordBlock, name: str) -> Iterator[np.ndarray]: ...

    def check_used(self) -> None: ...


class Threads:
    """One each, of one file: vectors are read and hashed by one and put into place by the other, while the caller goes on.

    When the block ends in an error, what they have still to do is left undone.
    """

    def __init__(self):
        self.reading, self.writing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.left = False

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.left = kind is not None
        self.reading.shutdown(cancel_futures=self.left)  # the first: it gives work to the other
        self.writing.shutdown()


class CountedRows:
    """The rows of one dataset, in order, that others write and hash: they update `digest`."""

    def __init__(self, shape: Tuple[int, int], dtype: str):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.filled = 0  # rows
        self.digest = started_checksum(self.dtype, shape)

    def append(self, pieces: Iterable[np.ndarray], count: int) -> None:
        """The next rows: so many, whose arrays are not asked for here."""
        self.filled += count

    def checksum(self) -> str:
        """Of all rows, as seals.checksum_of has it."""
        assert self.filled == self.shape[0], f"{self.filled} rows of {self.shape[0]}"
        return self.digest.hexdigest()


class VectorRows(CountedRows):
    """The same, taken, hashed and put into place.

    judge: raises what is the matter with the source of rows that could not be put. also: digests of datasets of other files that
    go over these rows, too.
    """

    def __init__(self, shape: Tuple[int, int], dtype: str, put: Put, threads: Threads, judge: Callable[[], None], also: Sequence[xxh3_128] = ()):
        super().__init__(shape, dtype)
        self._put, self._threads, self._judge, self._digests = put, threads, judge, [self.digest, *also]
        self._coming: Deque[Future] = deque()

    def append(self, pieces: Iterable[np.ndarray], count: int) -> None:
        """The next rows, so many in arrays of the dataset's type. Raises what came of those before."""
        _finish_all_but(MOST_BLOCKS, self._coming)
        self._coming.append(self._threads.reading.submit(self._write, self.filled, pieces, self.filled + count))
        self.filled += count

    def _write(self, row: int, pieces: Iterable[np.ndarray], end: int) -> None:
        putting: Deque[Future] = deque()
        try:
            for piece in pieces:
                rows = np.ascontiguousarray(piece)
                putting.append(self._threads.writing.submit(self._put, row, rows))
                for digest in self._digests:
                    digest.update(rows.data)
                _finish_all_but(MOST_PIECES, putting)
                row += len(rows)
                if self._threads.left:
                    return
            _finish_all_but(0, putting)
            assert row == end, f"rows up to {row} came, and {end} were to come"
        except Exception:  # numbers that float16 cannot hold, shapes that do not fit: in a damaged file any may stand
            self._judge()
            raise

    def checksum(self) -> str:
        """The same, when all are written. Raises what came of them."""
        _finish_all_but(0, self._coming)
        return super().checksum()


def _finish_all_but(count: int, tasks: Deque[Future]) -> None:
    """Raises what came of those that have ended."""
    while tasks and (len(tasks) > count or tasks[0].done()):
        tasks.popleft().result()


def putting(file: h5py.File, name: str, shape: Tuple[int, int], form: Form, descriptor: int) -> Put:
    """Create a dataset; the function writes rows to it. descriptor: of the same file, for writing past HDF5 into a place that is this dataset's alone."""
    dataset = form.create(file, name, shape)
    if dataset.chunks is None:
        place = Place.of(dataset)
        return lambda row, rows: place.write(descriptor, row, rows)

    def put(row: int, rows: np.ndarray) -> None:
        dataset[row : row + len(rows)] = rows

    return put


class Part(NamedTuple):
    """Rows of a virtual dataset that stand in another file under the same name."""

    file: str  # its name, in the folder of the virtual one
    rows: int


def rows_elsewhere(file: h5py.File, name: str, shape: Tuple[int, int], dtype: str, parts: List[Part]) -> CountedRows:
    """A new virtual dataset: its rows are those of `parts`, one part behind the other.

    Where a part is missing HDF5 shows its fill value: NaN, so that nobody takes it for a vector.
    """
    assert sum(part.rows for part in parts) == shape[0], "parts that do not make up the whole"
    layout, start = h5py.VirtualLayout(shape, dtype), 0
    for part in parts:
        layout[start : start + part.rows] = h5py.VirtualSource(part.file, name, (part.rows, shape[1]), dtype)
        start += part.rows
    file.create_virtual_dataset(name, layout, fillvalue=np.nan)
    return CountedRows(shape, dtype)
