"""Fills the vector datasets of embeddings.h5, hashed as they are written instead of read back; in a process of its own where they are large.

What is hashed is what was handed over, so a byte that the disk changes is found by whoever reads the file; reading it back at
once would show the page cache only. One thread reads, hashes and writes: two wait for each other more than they gain.
"""

import ctypes
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterator, Mapping, Optional, Protocol, Tuple

import numpy as np
from xxhash import xxh3_128

from protembed.hdf5 import Place
from protembed.layout import rows_of
from protembed.records import RecordBlock
from protembed.rounding import rounded
from protembed.seals import started_checksum
from protembed.vector_datasets import Target

BEGIN_BYTES = 1 << 26  # of vectors from which on the disk is asked to begin
_libc = ctypes.CDLL(None)


class Source(Protocol):
    """Where the vectors come from: see merging.VectorFiles."""

    def pieces(self, block: RecordBlock, name: str) -> Iterator[np.ndarray]: ...

    def check_used(self) -> None: ...

    def check_all(self) -> None: ...


class DiskAtWork:
    """Has the disk begin while a file is being written: or the sync at the end waits for gigabytes that have lain in memory until then.

    A hint: nothing is safe before that sync, and its faults are that sync's. Not fsync, which uploads the file where a bucket is mounted.
    """

    def __init__(self):
        self._written = 0  # bytes that the disk was not told of
        self._thread = ThreadPoolExecutor(1)  # no thread before the first task: this object may be on its way into another process
        self._begun: Optional[Future] = None

    def wrote(self, descriptor: int, count: int) -> None:
        """So many bytes more, to the file that is open there."""
        self._written += count
        if self._written >= BEGIN_BYTES and (self._begun is None or self._begun.done()):
            self._written, self._begun = 0, self._thread.submit(_begin, descriptor)

    def wait(self) -> None:
        """Until the descriptor is in nobody's hands."""
        if self._begun:
            self._begun.result()


def _begin(descriptor: int) -> None:
    if hasattr(_libc, "sync_file_range"):  # Linux
        _libc.sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), 2)  # all of it, SYNC_FILE_RANGE_WRITE


class Filler:
    """Fills the vector datasets of one file after the other with the vectors of blocks of records, in their order.

    whole: datasets of an index -> shape; their rows are those of all these files, and their checksums are taken on the way.
    """

    def __init__(self, source: Source, dtype: str, whole: Mapping[str, Tuple[int, int]]):
        self._source, self._dtype = source, np.dtype(dtype)
        self._whole = {name: started_checksum(self._dtype, shape) for name, shape in whole.items()}
        self._descriptor, self._disk = -1, DiskAtWork()
        self._targets: Dict[str, Target] = {}
        self._filled: Dict[str, int] = {}  # rows
        self._digests: Dict[str, xxh3_128] = {}

    def begin(self, path: Path, targets: Mapping[str, Target]) -> None:
        """The next file, and its datasets. OSError when it cannot be opened."""
        self._descriptor, self._targets, self._filled = os.open(path, os.O_RDWR), dict(targets), dict.fromkeys(targets, 0)
        self._digests = {name: started_checksum(self._dtype, target.shape) for name, target in targets.items()}

    def append(self, block: RecordBlock) -> None:
        """The vectors of the next records. Raises OSError, BadOption when the type cannot hold a number, what the source raises."""
        for name in self._targets:
            try:
                self._append(block, name)
            except Exception:  # numbers that float16 cannot hold, shapes that do not fit: in a damaged file any may stand
                self._source.check_used()
                raise

    def _append(self, block: RecordBlock, name: str) -> None:
        row, where, digests = self._filled[name], self._targets[name].where, [each[name] for each in (self._digests, self._whole) if each]
        for piece in rounded(self._source.pieces(block, name), self._dtype, name, block):
            rows = np.ascontiguousarray(piece)
            for digest in digests:
                digest.update(rows.data)
            if isinstance(where, Place):
                where.write(self._descriptor, row, rows)
            else:
                where(row, rows)
            self._disk.wrote(self._descriptor, rows.nbytes)
            row += len(rows)
        self._filled[name] += int(rows_of(name, block.residues).sum())
        assert row == self._filled[name], f"rows up to {row} came, and {self._filled[name]} were to come"

    def finish(self) -> Dict[str, str]:
        """The checksums of the file's datasets, as seals.checksum_of has them. Raises what check_used does."""
        for name, target in self._targets.items():
            assert self._filled[name] == target.shape[0], f"{self._filled[name]} rows of {target.shape[0]}"
        self._source.check_used()
        self.close()
        return _hexadecimal(self._digests)

    def close(self) -> None:
        """Leave the file, finished or not."""
        self._disk.wait()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def finish_whole(self) -> Dict[str, str]:
        """Those of the index's datasets, after the last file."""
        return _hexadecimal(self._whole)

    def check_all(self) -> None:
        """CorruptStore when a file of the source is damaged, whether a vector of it was wanted or not."""
        self._source.check_all()


def _hexadecimal(digests: Mapping[str, xxh3_128]) -> Dict[str, str]:
    return {name: digest.hexdigest() for name, digest in digests.items()}
