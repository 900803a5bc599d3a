#!/usr/bin/env python3
"""What checkpointing costs: the real Embedder with vectors thrown away, and with a commit every so many seconds, in one run.

Variants take turns, round after round, on the same sequences, each in a process of its own so that its peak memory is its
own. Writes JSON (after every cell) and prints a table.

Ratios of wall time are as good as the machine is quiet: two equal runs differ by some per cent, more than is looked for.
So the direct cost is measured too: the time that the computing thread spends in the committer (blocked, joining vectors,
waiting for the last commit) plus the CPU time of the commit thread beside it, which a computing thread may have missed.
Its share of the run is what the bound of 1 % is judged by.
"""

import datetime
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import accumulate, cycle
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "bin"))

import torch  # noqa: E402
from committing import Setting, load, measured  # noqa: E402
from embed import MODELS, length_set  # noqa: E402
from measuring import machine  # noqa: E402

from protembed.atomic import write_text  # noqa: E402
from protembed.cli import log, run  # noqa: E402
from protembed.device import usable_device  # noqa: E402
from protembed.errors import BadOption  # noqa: E402
from protembed.layout import KINDS  # noqa: E402
from protembed.proteins import read_fasta  # noqa: E402

PILOT_TOKENS = {"cpu": 8192, "cuda": 1 << 20}
INCLUDE_HELP = f"comma separated sets of {', '.join(KINDS)}, a set joined by + (default: mean,mean+per_tok)"
FOLDER_HELP = "where a temporary folder for checkpoints is made; a disk, not a file system in memory (default: .)"


@dataclass(frozen=True)
class Options:
    model: str = field(default="8M", metadata=dict(choices=list(MODELS), help="random weights of this model (default: 8M)"))
    include: str = field(default="mean,mean+per_tok", metadata=dict(help=INCLUDE_HELP))
    intervals: str = field(default="30,1,0", metadata=dict(help="seconds between commits, comma separated; 0: after every pack (default: 30,1,0)"))
    seconds: float = field(default=12.0, metadata=dict(help="about how long one run without checkpoints takes (default: 12)"))
    rounds: int = field(default=3, metadata=dict(help="runs of each variant (default: 3)"))
    fasta: str = field(default=str(HERE.parent / "assets" / "ecoli_demo.fasta.gz"), metadata=dict(help="the proteome (default: assets/ecoli_demo.fasta.gz)"))
    device: str = field(default="cpu", metadata=dict(choices=["cpu", "cuda"], help="where to compute: float32 on cpu, float16 on cuda (default: cpu)"))
    threads: int = field(default=0, metadata=dict(help="CPU threads; 0: all cores (default: 0)"))
    max_tokens: int = field(default=0, metadata=dict(help="pack budget; 0: by device (default: 0)"))
    folder: str = field(default=".", metadata=dict(help=FOLDER_HELP))
    out: str = field(default="", metadata=dict(help="JSON file (default: results/checkpointing-<device>-<date>.json beside this script)"))

    def __post_init__(self):
        for include in self.include.split(","):
            if not set(include.split("+")) <= set(KINDS):
                raise BadOption(f"--include has {include!r}; choose from {', '.join(KINDS)}, joined by +")
        try:
            good = all(float(word) >= 0 for word in self.intervals.split(","))
        except ValueError:
            good = False
        if not good:
            raise BadOption(f"--intervals is {self.intervals!r}; it must be seconds, comma separated, none negative")
        if self.seconds <= 0 or self.rounds < 1:
            raise BadOption("--seconds must be more than 0, --rounds at least 1")


def as_many(proteome: Sequence[str], tokens: float) -> List[str]:
    """Proteins from the first on, again from the first when they are not enough, until `tokens` tokens are reached."""
    count = next(number for number, total in enumerate(accumulate(len(protein) + 2 for protein in cycle(proteome)), 1) if total >= tokens)
    return [protein for protein, _ in zip(cycle(proteome), range(count))]


def measure(options: Options, include: Tuple[str, ...], proteome: Sequence[str]) -> Dict[str, object]:
    """All variants in turns; the rounds go forth and back, so that none always runs after the same other."""
    intervals = [None, *map(float, options.intervals.split(","))]
    context = multiprocessing.get_context("spawn")  # a forked child may not use CUDA, and would count its parent's memory
    settings = [Setting(MODELS[options.model], include, interval, options.device, torch.get_num_threads(), options.max_tokens) for interval in intervals]
    pools = [ProcessPoolExecutor(1, context, load, (setting,)) for setting in settings]
    runs: List[List[Dict[str, float]]] = [[] for _ in intervals]

    def one(number: int, sequences: Sequence[str]) -> Dict[str, float]:
        folder = Path(tempfile.mkdtemp(prefix="checkpointing-", dir=options.folder))
        try:
            return pools[number].submit(measured, sequences, folder).result()
        finally:
            shutil.rmtree(folder)

    try:
        for ready in [pool.submit(os.getpid) for pool in pools]:  # all draw their weights at once
            ready.result()
        pilot = as_many(proteome, PILOT_TOKENS[options.device])
        for number in range(len(intervals)):  # what is loaded or made at first use
            one(number, pilot)
        rate = max(result["tokens"] / result["seconds"] for result in (one(0, pilot), one(0, pilot)))
        sequences = as_many(proteome, options.seconds * rate)
        for turn in range(options.rounds):
            for number in list(range(len(intervals)))[:: -1 if turn % 2 else 1]:
                runs[number].append(one(number, sequences))
                log.info("%s, %s: %.1f s", "+".join(include), named(intervals[number]), runs[number][-1]["seconds"])
    finally:
        for pool in pools:
            pool.shutdown()
    return {"include": list(include), "sequences": len(sequences), "tokens": runs[0][0]["tokens"], "packs": runs[0][0]["packs"], "rounds": options.rounds,
            "variants": [summary(interval, on, runs[0]) for interval, on in zip(intervals, runs)]}  # fmt: skip


def summary(interval: Optional[float], runs: List[Dict[str, float]], off: List[Dict[str, float]]) -> Dict[str, object]:
    """A variant's rounds, their medians, and its place beside the runs without checkpoints."""
    ratios = [ours["seconds"] / theirs["seconds"] for ours, theirs in zip(runs, off)]
    peak, peak_off = (max(result["peak_resident_bytes"] or 0 for result in results) for results in (runs, off))
    line = {"interval": interval, "least_seconds": min(result["seconds"] for result in runs), "ratio_to_off": statistics.median(ratios), "ratios": ratios,
            "peak_resident_over_off": peak - peak_off if peak and peak_off else None}  # fmt: skip
    medians = {name: statistics.median(result[name] for result in runs) for name in runs[0] if runs[0][name] is not None}
    return {**line, **medians, "runs": runs}


def named(interval: Optional[float]) -> str:
    """A variant in words."""
    return "off" if interval is None else f"every {interval:g} s" if interval else "every pack"


def table(cell: Dict[str, object]) -> str:
    """A cell as markdown."""
    titles = (
        "commit",
        "s, least",
        "s, median",
        "over off",
        "direct",
        "before the end",
        "end s",
        "thread CPU s",
        "fsync s",
        "batches",
        "MB",
        "MB waiting",
        "RSS + MB",
    )
    heading = f"{'+'.join(cell['include'])}: {cell['sequences']} sequences, {cell['tokens']} tokens, {cell['packs']} packs, {cell['rounds']} rounds"
    lines = ["", heading, "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for line in cell["variants"]:
        shown = [named(line["interval"]), f"{line['least_seconds']:.2f}", f"{line['seconds']:.2f}"]
        if line["interval"] is not None:
            over = line["peak_resident_over_off"]
            shown += [f"{line['ratio_to_off'] - 1:+.1%}", f"{line['direct_share']:.2%}", f"{line['direct_share_before_leaving']:.2%}"]
            shown += [f"{line['leaving_seconds']:.2f}", f"{line['commit_cpu_seconds']:.3f}", f"{line['fsync_seconds']:.2f}", f"{line['batches']:.0f}"]
            shown += [f"{line['bytes'] / 1e6:.1f}", f"{line['most_bytes_waiting'] / 1e6:.1f}", "?" if over is None else f"{over / 1e6:.0f}"]
        lines.append("| " + " | ".join(shown + [""] * (len(titles) - len(shown))) + " |")
    return "\n".join(lines)


def main(options: Options) -> None:
    device = usable_device(options.device)
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    today = datetime.datetime.now(datetime.timezone.utc)
    out = Path(options.out) if options.out else HERE / "results" / f"checkpointing-{options.device}-{today:%Y-%m-%d}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    proteome = length_set("ecoli", [record.sequence for record in read_fasta(Path(options.fasta))])
    report = {
        "benchmark": "checkpointing", "started": today.isoformat(timespec="seconds"), "machine": machine(device), "model": MODELS[options.model],
        "options": {**asdict(options), "fasta": Path(options.fasta).name, "out": out.name, "folder": Path(options.folder).name}, "cells": [],
    }  # fmt: skip
    for include in options.include.split(","):
        report["cells"].append(measure(options, tuple(sorted(include.split("+"))), proteome))
        write_text(out, json.dumps(report, indent=1) + "\n")
        print(table(report["cells"][-1]), flush=True)
    log.info("wrote %s", out)


if __name__ == "__main__":
    sys.exit(run(Options, main))
