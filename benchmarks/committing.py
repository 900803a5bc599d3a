"""One run with or without checkpoints, clocks around it, in a process of its own: the worker of checkpointing.py."""

import os
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from measuring import peak_resident

from protembed.batch import Batch
from protembed.checkpoint import ChunkCheckpoint
from protembed.committer import BackgroundCommitter
from protembed.device import usable_device
from protembed.embedding import Embedder
from protembed.errors import Incomplete
from protembed.esm2 import PackedESM2, default_max_tokens
from protembed.shapes import SHAPES
from protembed.weights import random_esm2


class Setting(NamedTuple):
    """What a worker is made for."""

    model: str  # a name of SHAPES
    include: Tuple[str, ...]  # kinds of vectors
    interval: Optional[float]  # seconds between commits, 0: after every pack, None: vectors are thrown away
    device: str  # cpu: float32, cuda: float16
    threads: int
    max_tokens: int  # 0: by device


class Clocks:
    """Around a ChunkCheckpoint: what its commits take on their thread, and how many bytes were handed over and are not durable."""

    def __init__(self, folder: Path, row_count: int):
        self.checkpoint = ChunkCheckpoint(folder, "identity", "chunk", row_count)
        self.commits: List[Tuple[float, float, float]] = []  # started, seconds, CPU seconds of its thread
        self.given = self.durable = self.most_waiting = 0  # bytes of vectors

    def commit(self, parts: List[Batch], seconds: float) -> None:
        """ChunkCheckpoint.commit, timed."""
        started, cpu = time.perf_counter(), time.thread_time()
        self.checkpoint.commit(parts, seconds)
        self.durable += sum(part.nbytes for part in parts)
        self.commits.append((started, time.perf_counter() - started, time.thread_time() - cpu))

    def give(self, batch: Batch, committer: BackgroundCommitter) -> float:
        """Hand over a pack; the seconds that took."""
        started = time.perf_counter()
        self.given += batch.nbytes
        self.most_waiting = max(self.most_waiting, self.given - self.durable)
        committer.add(batch)
        return time.perf_counter() - started


class TimedFsync:
    """In place of os.fsync."""

    def __init__(self):
        self.fsync, self.seconds = os.fsync, 0.0

    def __call__(self, descriptor: int) -> None:
        started = time.perf_counter()
        self.fsync(descriptor)
        self.seconds += time.perf_counter() - started


class Worker:
    """The process of one variant."""

    loaded: "Worker"

    def __init__(self, setting: Setting):
        torch.set_num_threads(setting.threads)
        device, shape = usable_device(setting.device), SHAPES[setting.model]
        dtype = torch.float32 if setting.device == "cpu" else torch.float16
        self.engine = PackedESM2(random_esm2(shape), (shape.layers,), setting.include, dtype, device)
        self.max_tokens, self.interval = setting.max_tokens or default_max_tokens(device, shape.width, "per_tok" in setting.include), setting.interval
        os.fsync = self.fsync = TimedFsync()

    def off(self, embedder: Embedder) -> Dict[str, float]:
        """Vectors are computed, checked and thrown away."""
        started = time.perf_counter()
        for _ in embedder.run(set(range(len(embedder.residues)))):
            pass
        return {"seconds": time.perf_counter() - started}

    def on(self, embedder: Embedder, folder: Path) -> Dict[str, float]:
        """As embed_chunk.py commits them, clocks around it."""
        started, fsync, adding = time.perf_counter(), self.fsync.seconds, 0.0
        clocks = Clocks(folder, len(embedder.residues))
        made = time.perf_counter()
        with BackgroundCommitter(clocks.commit, self.interval) as committer:
            for batch in embedder.run(set(range(len(embedder.residues)))):
                adding += clocks.give(batch, committer)
            leaving = time.perf_counter()
        ended = time.perf_counter()
        beside = sum(cpu for commit_started, _, cpu in clocks.commits if commit_started < leaving)
        return {
            "seconds": ended - started, "making_seconds": made - started, "adding_seconds": adding, "leaving_seconds": ended - leaving,
            "commit_seconds": sum(seconds for _, seconds, _ in clocks.commits), "commit_cpu_seconds": sum(cpu for *_, cpu in clocks.commits),
            "commit_cpu_beside_seconds": beside, "fsync_seconds": self.fsync.seconds - fsync,
            "direct_share": (made - started + adding + beside + ended - leaving) / (ended - started),
            "direct_share_before_leaving": (made - started + adding + beside) / (leaving - started),
            "bytes": clocks.durable, "batches": len(clocks.commits), "most_bytes_waiting": clocks.most_waiting,
        }  # fmt: skip

    def measured(self, sequences: Sequence[str], folder: Path) -> Dict[str, float]:
        """One run over all sequences, and a look at what it left."""
        embedder = Embedder(list(map(len, sequences)), lambda rows: self.engine.begin([sequences[row] for row in rows]), None, self.max_tokens)
        found: Dict[str, float] = {}
        peak = peak_resident(lambda: found.update(self.off(embedder) if self.interval is None else self.on(embedder, folder)))
        found.update(peak_resident_bytes=peak, tokens=embedder.tokens, packs=len(embedder.packs))
        if self.interval is not None:
            found.update(read_back(folder, len(sequences)))
        if embedder.failed:
            raise Incomplete(f"{len(embedder.failed)} sequences were not embedded: {next(iter(embedder.failed.values()))}")
        return found


def read_back(folder: Path, row_count: int) -> Dict[str, float]:
    """Every batch read once, as embed_chunk.py does afterwards; not part of the run. Incomplete when rows are missing."""
    checkpoint = ChunkCheckpoint(folder, "identity", "chunk", row_count)
    rows: List[int] = []
    started = time.perf_counter()
    peak = peak_resident(lambda: rows.extend(row for provided in checkpoint.good_batches().values() for row in provided))
    if len(rows) != row_count:
        raise Incomplete(f"{row_count} rows were committed, {len(rows)} can be read back")
    return {"read_back_seconds": time.perf_counter() - started, "read_back_peak_bytes": peak}


def load(setting: Setting) -> None:
    """Make this process a worker."""
    Worker.loaded = Worker(setting)


def measured(sequences: Sequence[str], folder: Path) -> Dict[str, float]:
    """One run in this worker."""
    return Worker.loaded.measured(sequences, folder)
