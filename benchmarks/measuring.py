"""Engines against a clock: samples of passes that span all lengths, taken in turns, round after round.

The machine's speed drifts (other work, heat, clocks). So every engine's passes are spread evenly over each round, all
rounds repeat the same passes, and ratios are taken within a round.
"""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from engines import Plan, transformers_version
from torch import Tensor

from protembed import __version__
from protembed.allocation import keep_freed_memory

ROUNDS = 5
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of mallopt(3)


class Measured(NamedTuple):
    """One engine in one cell."""

    plan: Plan
    rates: List[float]  # unpadded tokens per second (residues + BOS + EOS), by round
    passes: int  # timed in each round
    seconds: float  # timed altogether
    working_bytes: Optional[int]  # peak above the weights, of the pass with the longest sequence; None: cannot be told here


def measure(engines: Sequence, sequences: Sequence[str], seconds: float, device: torch.device) -> List[Measured]:
    """Time each engine for about `seconds`; longer where passes are slow, since a sample must span the lengths."""
    lengths = [len(sequence) for sequence in sequences]
    least = 1 if max(lengths) <= min(lengths) + 1 else 4  # passes that show a length mix
    plans = [engine.plan(sequences) for engine in engines]
    pilots, memory = zip(*(pilot(engine, plan, sequences, device) for engine, plan in zip(engines, plans)))
    slowest = max(min(least, len(plan.passes)) * second for plan, second in zip(plans, pilots))
    rounds = max(1, min(ROUNDS, int(seconds / slowest)))
    samples = [spread(plan.passes, max(least, round(seconds / rounds / second))) for plan, second in zip(plans, pilots)]
    turns = sorted(((place + 0.5) / len(sample), number, place) for number, sample in enumerate(samples) for place in range(len(sample)))
    spent = [[0.0] * rounds for _ in engines]
    for round_number in range(rounds):
        for _, number, place in turns:
            spent[number][round_number] += timed(engines[number], [sequences[row] for row in samples[number][place]])
    tokens = [sum(lengths[row] + 2 for rows in sample for row in rows) for sample in samples]
    return [
        Measured(plan, [count / second for second in column], len(sample), sum(column), peak)
        for plan, count, column, sample, peak in zip(plans, tokens, spent, samples, memory)
    ]


def pilot(engine, plan: Plan, sequences: Sequence[str], device: torch.device) -> Tuple[float, Optional[int]]:
    """Seconds and peak memory of the pass with the longest sequence."""
    engine.run([min(sequences, key=len)])  # what is loaded or made at first use
    longest = max(plan.passes, key=lambda rows: max(len(sequences[row]) for row in rows))
    seconds: List[float] = []
    memory = peak_memory(lambda: seconds.append(timed(engine, [sequences[row] for row in longest])), device)
    return seconds[0], memory


def allocate_as_users_do(engine) -> None:
    """Malloc as it is where the engine is used: ours keeps what it frees (keep_freed_memory), and so do the limits; the others have glibc's own thresholds.

    These are what they grow to by themselves. What the engine before has kept is given back: ours begins each pass without.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if engine.name == "protembed" or engine.name.startswith("matmul"):
            keep_freed_memory()
        else:
            libc.mallopt(M_MMAP_MAX, 65536)
            libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
            libc.mallopt(M_TRIM_THRESHOLD, 64 << 20)
        libc.malloc_trim(0)


def timed(engine, sequences: Sequence[str]) -> float:
    """Seconds of one pass; it has ended on the device too, since its result is on the CPU."""
    allocate_as_users_do(engine)
    started = time.perf_counter()
    engine.run(sequences)
    return (time.perf_counter() - started) * engine.scale


def spread(passes: Sequence[List[int]], count: int) -> List[List[int]]:
    """`count` of the passes at even distances (all when there are no more); the order of a plan is by length."""
    count = min(count, len(passes))
    return [passes[int((place + 0.5) * len(passes) / count)] for place in range(count)]


def peak_memory(call: Callable[[], None], device: torch.device) -> Optional[int]:
    """Bytes that `call` held at its worst moment above what was held before it; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    return peak_resident(call)


def peak_resident(call: Callable[[], None]) -> Optional[int]:
    """Bytes of this process's main memory that `call` held at its worst moment above what was held before it; None as above."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # else memory that the engine before has freed would count for nothing
    before = _reset_high_water()
    call()
    return None if before is None else _high_water() - before


def _reset_high_water() -> Optional[int]:
    try:
        with open("/proc/self/clear_refs", "w") as handle:
            handle.write("5")  # proc(5): the peak becomes what is resident now
        return _high_water()
    except OSError:
        return None


def _high_water() -> int:
    with open("/proc/self/status") as handle:
        return next(int(line.split()[1]) * 1024 for line in handle if line.startswith("VmHWM"))


def means_of(engine, sequences: Sequence[str]) -> Tensor:
    """All sequences through one engine, rows as in `sequences`."""
    means: List[Optional[Tensor]] = [None] * len(sequences)
    for rows in engine.plan(sequences).passes:
        for row, mean in zip(rows, engine.run([sequences[row] for row in rows])):
            means[row] = mean
    return torch.stack(means).double()


def machine(device: torch.device) -> Dict[str, object]:
    """The machine in words."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as handle:
        cpu = next((line.split(":", 1)[1].strip() for line in handle if line.startswith("model name")), cpu)
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "cpu": cpu,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_at_start": os.getloadavg(),
        "gpu": f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" if gpu else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fair-esm": importlib.metadata.version("fair-esm"),
        "transformers": transformers_version(),
        "protembed": __version__,
    }
