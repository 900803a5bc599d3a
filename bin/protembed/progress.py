"""How far every chunk is, read from nothing but the files in a checkpoint folder: while tasks write them, or after a crash.

    <root>/runs/<session>/split.json                 what the run has to do           (main.nf writes both)
    <root>/runs/<session>/<chunk>.metrics.json       a chunk that is embedded
    <root>/<identity>/<chunk>/attempt_*.json, batch_*.pt.done, failed.tsv             what its tasks have done so far

Any file may be missing, torn, hold something else, or vanish while it is read. Nothing is written, no batch is opened. Standard library only.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from protembed.layout import SPECIAL_TOKENS, attempt_path, batch_path, failures_path, marker_of
from protembed.marker import Work, work_of

RECENT_COMMITS = 5  # the rate is that of the last so many
SILENCE = 120.0  # seconds without a new file, beyond three times the usual, after which a task is taken for dead
_IDENTITY, _CHUNK = re.compile(r"[0-9a-f]{32}"), re.compile(r"chunk_[0-9a-f]{16}")


@dataclass(frozen=True)
class ChunkProgress:
    """One chunk under one identity; counts are of sequences, tokens include BOS and EOS."""

    chunk: str
    identity: str  # empty while the chunk waits
    state: str  # waiting, working, silent (no news for long: dead, or a very long pack), finished
    sequences: int  # to do; 0: not known
    done: int
    reused: int  # of done: found by the latest attempt when it began
    failed: int
    tokens: int  # to do
    tokens_done: int
    tokens_per_second: float  # of the last commits; 0: not known
    attempts: int
    device: str
    age: float  # seconds since the last new file

    @property
    def computed(self) -> int:
        return self.done - self.reused

    @property
    def seconds_left(self) -> Optional[float]:
        """At the rate of the last commits; None when it cannot be known."""
        known = self.state == "working" and self.tokens_per_second > 0
        return (self.tokens - self.tokens_done) / self.tokens_per_second if known else None


def read_progress(root: Path, now: float) -> List[ChunkProgress]:
    """All chunks that the checkpoint folder knows of, by name; `now` in seconds since the epoch."""
    planned: Dict[str, Tuple[int, int]] = {}
    finished: Dict[Tuple[str, str], dict] = {}
    for run in _entries(root / "runs"):
        planned.update(_sizes(_json(run / "split.json").get("chunk_sizes")))
        for path in _entries(run):
            if path.name.endswith(".metrics.json"):
                metrics = _json(path)
                finished[_word(metrics, "identity"), _word(metrics, "chunk")] = metrics
    found = [_finished(metrics, identity, chunk) for (identity, chunk), metrics in finished.items() if chunk]
    for identity, chunk in _chunk_folders(root):
        if (identity, chunk) not in finished:
            found.append(_unfinished(root, identity, chunk, planned.get(chunk, (0, 0)), now))
    seen = {progress.chunk for progress in found}
    found += [_waiting(chunk, *size) for chunk, size in planned.items() if chunk not in seen]
    return sorted(found, key=lambda progress: (progress.chunk, progress.identity))


def _finished(metrics: dict, identity: str, chunk: str) -> ChunkProgress:
    sequences, reused, failed = (_count(metrics, name) for name in ("sequences", "reused", "failed"))
    tokens = _count(metrics, "residues") + SPECIAL_TOKENS * sequences
    return ChunkProgress(chunk, identity, "finished", sequences, sequences - failed, reused, failed, tokens, tokens, 0.0, 0, _word(metrics, "device"), 0.0)


def _waiting(chunk: str, sequences: int, residues: int) -> ChunkProgress:
    return ChunkProgress(chunk, "", "waiting", sequences, 0, 0, 0, residues + SPECIAL_TOKENS * sequences, 0, 0.0, 0, "", 0.0)


def _unfinished(root: Path, identity: str, chunk: str, size: Tuple[int, int], now: float) -> ChunkProgress:
    place = root, identity, chunk
    names = [path.name for path in _entries(batch_path(*place, 0).parent)]
    numbers = sorted(int(name[8:-5]) for name in names if re.fullmatch(r"attempt_\d+\.json", name))
    latest = _json(attempt_path(*place, numbers[-1])) if numbers else {}
    markers = [batch_path(*place, 0).with_name(name) for name in sorted(names) if name.endswith(marker_of(Path("batch_0.pt")).suffix)]
    works = [work for work in (work_of(_text(marker)) for marker in markers) if work]
    sequences, residues = _count(latest, "sequences", size[0]), _count(latest, "residues", size[1])
    done = min(sum(work.sequences for work in works), sequences)  # two writers may both have committed a sequence
    tokens = residues + SPECIAL_TOKENS * sequences
    tokens_done = min(sum(map(_tokens, works)), tokens)
    age = max(0.0, now - max(map(_changed, [*markers, *(attempt_path(*place, number) for number in numbers)]), default=now))
    recent = [work for work in works if numbers and work.attempt == numbers[-1]][-RECENT_COMMITS:]
    seconds = sum(work.seconds for work in recent)
    state = "silent" if age > SILENCE + 3 * seconds / max(1, len(recent)) else "working"
    rate = sum(map(_tokens, recent)) / seconds if seconds else 0.0
    failed = _text(failures_path(*place)).count("\n")
    reused = min(_count(latest, "reused"), done)
    return ChunkProgress(chunk, identity, state, sequences, done, reused, failed, tokens, tokens_done, rate, len(numbers), _word(latest, "device"), age)


def _tokens(work: Work) -> int:
    return work.residues + SPECIAL_TOKENS * work.sequences


def _chunk_folders(root: Path) -> Iterator[Tuple[str, str]]:
    for identity in _entries(root):
        if _IDENTITY.fullmatch(identity.name):
            yield from ((identity.name, chunk.name) for chunk in _entries(identity) if _CHUNK.fullmatch(chunk.name))


def _entries(folder: Path) -> List[Path]:
    try:
        return [folder / name for name in os.listdir(folder)]
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _json(path: Path) -> dict:
    try:
        found = json.loads(_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _count(found: dict, name: str, otherwise: int = 0) -> int:
    value = found.get(name)
    return value if isinstance(value, int) and value >= 0 else otherwise


def _word(found: dict, name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""


def _sizes(found: object) -> Dict[str, Tuple[int, int]]:
    pairs = found.items() if isinstance(found, dict) else ()
    return {chunk: (size[0], size[1]) for chunk, size in pairs if isinstance(size, list) and [type(part) for part in size] == [int, int]}


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
