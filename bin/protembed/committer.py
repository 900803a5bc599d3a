"""Checkpoints beside the computing: batches are collected and committed on a thread, with bounded memory. Knows no files."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, List, Optional

from protembed.batch import Batch

# Vectors that wait for the next commit before it begins early; as many may be on their way to the disk. More would make the end
# of a task wait for long.
MOST_BYTES_WAITING = 1 << 26


class BackgroundCommitter:
    """Collects batches and commits them every so many seconds on a thread, never more than one commit behind."""

    def __init__(self, commit: Callable[[List[Batch], float], object], seconds: float):
        self._commit, self._seconds = commit, seconds
        self._waiting: List[Batch] = []
        self._bytes_waiting = 0
        self._pool = ThreadPoolExecutor(1, "commit")
        self._running: Optional[Future] = None
        self._last = time.monotonic()

    def __enter__(self) -> "BackgroundCommitter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        # Also after an error (out of memory, a bug, Ctrl-C): what was computed is kept.
        try:
            self.flush()
            self._settle()
        finally:
            self._pool.shutdown()

    def add(self, batch: Batch) -> None:
        """Hand over vectors; commits when the interval is over or too many bytes wait."""
        self._waiting.append(batch)
        self._bytes_waiting += batch.nbytes
        if time.monotonic() - self._last >= self._seconds or self._bytes_waiting >= MOST_BYTES_WAITING:
            self.flush()

    def flush(self) -> None:
        """Start to commit all that waits, once the commit before it has ended."""
        self._settle()
        if self._waiting:
            began, self._last = self._last, time.monotonic()
            self._running = self._pool.submit(self._commit, self._waiting, self._last - began)
            self._waiting, self._bytes_waiting = [], 0

    def _settle(self) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            running.result()
