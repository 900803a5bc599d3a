"""What the tests that kill share: victims, what was durable when, and two finished files compared."""

import contextlib
import time
from functools import cache
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional

import h5py
import numpy as np
import torch
from xxhash import xxh3_128

from tests.conftest import relative_l2
from tests.nextflow import is_worker, kill, processes

NEXTFLOW, WRAPPER, WORKER = "Nextflow", "wrapper", "worker"
ECOLI_FASTA = Path(__file__).resolve().parent / "data" / "ecoli_1000.fasta.gz"

# Two tasks at once, one thread each, on any machine that has two cores or more.
TWO_WORKERS = "process { withName: EMBED_CHUNK { cpus = 1; maxForks = 2; memory = 2.GB } }\n"


def living(folder) -> Dict[str, List[int]]:
    """Kind -> process ids of what lives of a run in `folder`. Wrappers are the shells around a task, of any step."""
    found: Dict[str, List[int]] = {NEXTFLOW: [], WRAPPER: [], WORKER: []}
    for pid, argv, _ in processes(folder):
        if "nextflow.cli.Launcher" in argv:
            found[NEXTFLOW].append(pid)
        elif any(word.endswith((".command.run", ".command.sh")) for word in argv):
            found[WRAPPER].append(pid)
        elif is_worker(argv):
            found[WORKER].append(pid)
    return found


@contextlib.contextmanager
def leaving_nothing(folder) -> Iterator[None]:
    """When the block ends, well or not, nothing lives in `folder` any more: who stops a drill wants the machine back."""
    try:
        yield
    finally:
        while alive := processes(folder):  # a shell may start its next child while we look
            for pid, _, _ in alive:
                kill(pid)


class Worker(NamedTuple):
    """A living embed_chunk.py."""

    pid: int
    chunk: str
    rows: int  # of its chunk
    started: float  # its task, seconds since 1970


def embedding_workers(folder) -> List[Worker]:
    """The workers that live below `folder`."""
    found = []
    for pid, argv, place in processes(folder):
        if is_worker(argv):
            fasta = place / next(word for word in argv if word.endswith(".fasta"))
            try:
                found.append(Worker(pid, fasta.stem, fasta.read_text().count(">"), (place / ".command.begin").stat().st_mtime))
            except FileNotFoundError:  # gone meanwhile
                continue
    return found


class Durable(NamedTuple):
    """A committed batch."""

    chunk: str
    rows: List[int]
    at: float  # when its marker was written, seconds since 1970


@cache
def _durable(marker: Path) -> Durable:
    batch = marker.with_name(marker.name.removesuffix(".done"))
    assert marker.read_text().split("\n")[0].split() == [xxh3_128(batch.read_bytes()).hexdigest(), batch.name]
    return Durable(batch.parent.name, torch.load(batch, weights_only=True)["rows"].tolist(), marker.stat().st_mtime)


def durable(folder) -> List[Durable]:
    """All committed batches of the runs in `folder`, which were told to keep them."""
    return [_durable(marker) for marker in (Path(folder) / "work" / "checkpoints").glob("*/chunk_*/batch_*.pt.done")]


def committed(batches: List[Durable], until: Optional[float] = None) -> Dict[str, set]:
    """Chunk -> rows that were durable at that time."""
    rows: Dict[str, set] = {}
    for batch in batches:
        if until is None or batch.at <= until:
            rows.setdefault(batch.chunk, set()).update(batch.rows)
    return rows


def at_risk(folder, batches: List[Durable]) -> Dict[Worker, Optional[float]]:
    """Worker in the middle of its chunk -> seconds of work that a kill now would cost; None before its first own commit."""
    now, done, found = time.time(), committed(batches), {}
    for worker in embedding_workers(folder):
        if len(done.get(worker.chunk, ())) < worker.rows:
            own = [batch.at for batch in batches if batch.chunk == worker.chunk and batch.at > worker.started]
            found[worker] = now - max(own) if own else None
    return found


class Comparison(NamedTuple):
    """A file against the golden one, record by record."""

    same_ids: bool  # and in the same order
    same_flags: bool
    differing: int  # records whose vector differs in any bit
    worst: float  # relative L2 distance
    same_content: bool  # content_sha256: ids and all datasets


def compared(golden: Path, other: Path) -> Comparison:
    with h5py.File(golden) as left, h5py.File(other) as right:
        same_ids = left["sequence_ids"][:].tolist() == right["sequence_ids"][:].tolist()
        if not same_ids:
            return Comparison(False, False, -1, np.inf, False)
        ours, theirs = left["embeddings"][:], right["embeddings"][:]
        return Comparison(
            same_ids,
            bool((left["flags"][:] == right["flags"][:]).all()),
            int((ours.view(np.uint32) != theirs.view(np.uint32)).any(axis=1).sum()),
            relative_l2(theirs, ours),
            left.attrs["content_sha256"] == right.attrs["content_sha256"],
        )
