"""A forward pass that the device may still be working on, while the host prepares the next one.

On a GPU kernels are only queued: results travel to pinned memory behind them, and the host waits when it wants to read. On a
CPU a pass has ended when it has begun.
"""

import time
from typing import Callable, Dict, Tuple

import torch
from torch import Tensor

Vectors = Dict[str, Tensor]


class Underway:
    """The vectors of one pass, on their way to the CPU."""

    def __init__(self, compute: Callable[[], Vectors], device: torch.device):
        """Queue `compute` on the device. RuntimeError from it as it is."""
        # blocking: the host sleeps while it waits, instead of asking all the time.
        self._events = [torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2)] if device.type == "cuda" else []
        started = time.perf_counter()
        for event in self._events[:1]:
            event.record()
        self._vectors = {name: _sent(vector) for name, vector in compute().items()}
        for event in self._events[1:]:
            event.record()
        self._seconds = time.perf_counter() - started

    def is_ready(self) -> bool:
        """Whether result() would not wait."""
        return all(event.query() for event in self._events)

    def result(self) -> Tuple[Vectors, float]:
        """The vectors, and the seconds that the device was busy with them. Faults of the device show here."""
        if self._events:
            begun, ended = self._events
            ended.synchronize()
            self._seconds = begun.elapsed_time(ended) / 1000
            # Pinned memory is scarce, a power of two each, and of a device that has failed it cannot be given back (the process aborts):
            # the next pass shall have it, and no checkpoint hold it.
            self._vectors = {name: vector.clone() for name, vector in self._vectors.items()}
        return self._vectors, self._seconds


def _sent(vector: Tensor) -> Tensor:
    if vector.device.type == "cpu":
        return vector
    return torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True).copy_(vector, non_blocking=True)
