"""What a finished run did, in numbers: from its ledger and the metrics of its tasks. Memory does not grow with the input.

Everything here goes into report.json as it is; how it is drawn is the matter of sections_of_*.py.
"""

from collections import Counter
from typing import Any, Dict, Iterable, List, Sequence

import numpy as np

MOST_SKIPPED_SHOWN = 200
MOST_REASONS = 50
Numbers = Dict[str, Any]


def ledger_numbers(lines: Iterable[Dict[str, str]]) -> Numbers:
    """Counts of ledger.tsv's lines: `status` and `reasons` of skipped records, the first of those, and `lengths` (see histogram_of)."""
    status: Counter = Counter()
    reasons: Counter = Counter()
    lengths: Counter = Counter()
    skipped: List[Numbers] = []
    for line in lines:
        residues = int(line["residues"])
        status[line["status"]] += 1
        lengths[residues] += 1
        if line["status"] == "skipped":
            reason = line["reason"] if line["reason"] in reasons or len(reasons) < MOST_REASONS else "other reasons"
            reasons[reason] += 1
            if len(skipped) < MOST_SKIPPED_SHOWN:
                skipped.append(dict(id=line["id"], residues=residues, reason=reason))
    return dict(status=dict(status), reasons=dict(reasons.most_common()), skipped=skipped, lengths=histogram_of(lengths))


def histogram_of(lengths: "Counter[int]", bins: int = 40) -> Numbers:
    """Records by residues: `counts` between `edges` (whole numbers, each about as many times the one before), least, median, mean, most."""
    if not lengths:
        return dict(counts=[], edges=[])
    values = np.array(sorted(lengths))
    weights = np.array([lengths[value] for value in values])
    edges = np.unique(np.geomspace(max(1, values[0]), values[-1] + 1, bins + 1).round().astype(int))
    edges[0], edges[-1] = values[0], max(values[-1] + 1, edges[0] + 1)
    edges = np.unique(edges)
    counts, _ = np.histogram(values, edges, weights=weights)
    median = values[np.searchsorted(weights.cumsum(), weights.sum() / 2)]
    mean = (values * weights).sum() / weights.sum()
    return dict(
        counts=counts.astype(int).tolist(),
        edges=edges.tolist(),
        least=int(values[0]),
        median=int(median),
        mean=float(mean),
        most=int(values[-1]),
        residues=int((values * weights).sum()),
    )


def place_of(metrics: Numbers) -> str:
    """Which device of which machine: host, the device's name, and its number where a machine has several."""
    attempts = metrics.get("attempts") or [{}]
    number = f" {metrics['visible_devices']}" if metrics.get("visible_devices") else ""
    return ", ".join(filter(None, [attempts[-1].get("host", ""), f"{metrics['device']}{number}"]))


def _first_began(metrics: Sequence[Numbers]) -> float:
    """When the first task of all began: the zero of all times."""
    return min((attempt["began"] for task in metrics for attempt in task.get("attempts", []) if "began" in attempt), default=0.0)


def chunk_numbers(metrics: Sequence[Numbers]) -> List[Numbers]:
    """One entry per chunk, in the order in which their last tasks began; times in seconds since the first task of all began."""
    zero = _first_began(metrics)
    found = []
    for task in metrics:
        attempts = task.get("attempts") or [{}]
        began = attempts[-1].get("began", zero) - zero
        rate = task["tokens"] / task["embed_seconds"] if task["embed_seconds"] else 0.0
        kept = ("chunk", "sequences", "residues", "tokens", "computed", "reused", "failed", "packs", "pack_tokens", "packing_efficiency", "out_of_memory")
        numbers = {name: task.get(name, 0) for name in kept}
        numbers.update(place=place_of(task), attempts=len(attempts), began=round(began, 3), ended=round(began + task["seconds"], 3))
        numbers.update(load_seconds=task["load_seconds"], embed_seconds=task["embed_seconds"], tokens_per_second=rate)
        found.append(numbers)
    return sorted(found, key=lambda numbers: (numbers["began"], numbers["chunk"]))


def device_numbers(chunks: Sequence[Numbers]) -> List[Numbers]:
    """What each device did: chunks, tokens, seconds, tokens per second, and its share of all tokens (0 to 1)."""
    total = sum(chunk["tokens"] for chunk in chunks)
    found = []
    for place in sorted({chunk["place"] for chunk in chunks}):
        own = [chunk for chunk in chunks if chunk["place"] == place]
        tokens, seconds = sum(chunk["tokens"] for chunk in own), sum(chunk["embed_seconds"] for chunk in own)
        rate, share = tokens / seconds if seconds else 0.0, tokens / total if total else 0.0
        found.append(dict(place=place, chunks=len(own), tokens=tokens, seconds=seconds, tokens_per_second=rate, share=share))
    return found


def attempt_numbers(metrics: Sequence[Numbers]) -> List[Numbers]:
    """The tasks that took up a chunk which another had begun, in order of time: when, where, and what they found done."""
    zero = _first_began(metrics)
    found = []
    for task in metrics:
        for attempt in task.get("attempts", [])[1:]:
            place = place_of(dict(attempt, attempts=[attempt], device=attempt.get("device", "")))
            began = round(attempt.get("began", zero) - zero, 3)
            found.append(
                dict(chunk=task["chunk"], attempt=attempt["attempt"], began=began, place=place, reused=attempt.get("reused", 0), sequences=task["sequences"])
            )
    return sorted(found, key=lambda numbers: (numbers["began"], numbers["chunk"]))


def progress_numbers(chunks: Sequence[Numbers], most: int = 400) -> List[Numbers]:
    """How many sequences were computed and taken from checkpoints at the end of each task, summed up; at most some `most` points."""
    computed = reused = 0
    points = []
    for chunk in sorted(chunks, key=lambda numbers: (numbers["ended"], numbers["chunk"])):
        computed, reused = computed + chunk["computed"], reused + chunk["reused"]
        points.append(dict(seconds=chunk["ended"], computed=computed, reused=reused))
    step = len(points) // most + 1
    return points[::-1][::step][::-1]  # the last one always
