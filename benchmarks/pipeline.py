#!/usr/bin/env python3
"""The whole pipeline under real Nextflow, from FASTA to embeddings.h5, and where its time goes.

Every second of the wall clock is in one line of the list: forward passes, and what is not. Weights are drawn. Tasks must run
one after the other (one GPU, or as many CPUs as a task takes): the script refuses to call overlapping tasks a breakdown.
Writes JSON after every input.
"""

import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Dict, List

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "bin"))

import torch  # noqa: E402
from embed import MODELS, length_set  # noqa: E402
from measuring import machine  # noqa: E402

from protembed.atomic import write_text  # noqa: E402
from protembed.cli import log, run  # noqa: E402
from protembed.device import usable_device  # noqa: E402
from protembed.errors import Incomplete  # noqa: E402
from protembed.proteins import read_fasta  # noqa: E402
from protembed.store import check_embeddings  # noqa: E402

TRACE = "trace { enabled = true; file = 'trace.tsv'; raw = true; fields = 'process,status,submit,start,complete,realtime' }\n"


@dataclass(frozen=True)
class Options:
    inputs: str = field(default="50:100000,ecoli", metadata=dict(help="LENGTHS[:COUNT] as in embed.py, comma separated (default: 50:100000,ecoli)"))
    models: str = field(default="8M,35M", metadata=dict(help="one per input, or one for all (default: 8M,35M)"))
    fasta: str = field(default=str(ROOT / "assets" / "ecoli_demo.fasta.gz"), metadata=dict(help="the proteome (default: assets/ecoli_demo.fasta.gz)"))
    profile: str = field(default="venv", metadata=dict(help="Nextflow profiles; with gpu the GPU computes (default: venv)"))
    folder: str = field(default=".", metadata=dict(help="where a temporary folder is made, on a disk (default: .)"))
    out: str = field(default="", metadata=dict(help="JSON file (default: results/pipeline-<device>-<date>.json beside this script)"))


def write_input(path: Path, wanted: str, proteome: List[str]) -> int:
    """FASTA of a length set, again from the first sequence with a residue changed where it is not long enough; its residues."""
    lengths, _, count = wanted.partition(":")
    sequences = length_set(lengths, proteome)
    total = int(count or len(sequences))
    residues = 0
    with open(path, "w") as fasta:
        for number in range(total):
            turn, place = divmod(number, len(sequences))
            sequence = sequences[place]
            if turn:  # another sequence of the same length: equal ones would be computed once
                sequence = sequence[turn % len(sequence) :] + sequence[: turn % len(sequence)]
            fasta.write(f">{lengths}_{number}\n{sequence}\n")
            residues += len(sequence)
    return residues


def run_nextflow(folder: Path, model: str, profile: str) -> float:
    """One run from nothing; wall seconds."""
    (folder / "trace.config").write_text(TRACE)
    command = [ROOT / "tools" / "nextflow", "run", ROOT / "main.nf", "-profile", profile, "-c", "trace.config", "-ansi-log", "false"]
    command += ["--input", "input.fasta", "--model", f"random:{model}", "--weights_dir", "downloads"]
    started = time.perf_counter()
    done = subprocess.run(list(map(str, command)), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wall = time.perf_counter() - started
    if done.returncode:
        raise Incomplete(f"Nextflow ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return wall


def breakdown(folder: Path, wall: float) -> Dict[str, object]:
    """Seconds by what they were spent on; they add up to the wall clock."""
    lines = [line.split("\t") for line in (folder / "trace.tsv").read_text().splitlines()]
    tasks = [dict(zip(lines[0], line)) for line in lines[1:]]
    spent = {name: sum(int(task["realtime"]) / 1000 for task in tasks if task["process"] == name) for name in {task["process"] for task in tasks}}
    embedding = sorted((int(task["start"]), int(task["complete"])) for task in tasks if task["process"] == "EMBED_CHUNK")
    if any(first[1] > second[0] for first, second in zip(embedding, embedding[1:])):
        raise Incomplete("EMBED_CHUNK tasks overlapped; their seconds do not add up to the wall clock")
    metrics = [json.loads(path.read_text()) for path in folder.glob("work/*/*/chunk_*.metrics.json")]
    inside = {name: sum(chunk[name] for chunk in metrics) for name in ("device_seconds", "embed_seconds", "load_seconds", "seconds")}
    split_and_weights = max(spent["SPLIT_FASTA"], spent["FETCH_WEIGHTS"])  # side by side
    seconds = {
        "forward passes": inside["device_seconds"],
        "beside them (tokens, packs, checkpoints)": inside["embed_seconds"] - inside["device_seconds"],
        "reading the chunk and loading weights": inside["load_seconds"],
        "writing the chunk's HDF5": inside["seconds"] - inside["embed_seconds"] - inside["load_seconds"],
        "starting and ending Python": spent["EMBED_CHUNK"] - inside["seconds"],
        "split and weights": split_and_weights,
        "verification": spent["VERIFY_EMBEDDINGS"],
        "merge": spent["MERGE_CHUNKS"],
        "report": spent["MAKE_REPORT"] + spent["MULTIQC"],
    }
    seconds["Nextflow: start, submission, publishing"] = wall - sum(seconds.values())
    chunk_seconds = [chunk["seconds"] for chunk in metrics]
    return {
        "wall_seconds": wall, "seconds": seconds, "overhead_share": 1 - inside["device_seconds"] / wall, "chunks": len(metrics),
        "tokens": sum(chunk["tokens"] for chunk in metrics), "tokens_per_wall_second": sum(chunk["tokens"] for chunk in metrics) / wall,
        "sequences": sum(chunk["sequences"] for chunk in metrics), "packing_efficiency": statistics.mean(chunk["packing_efficiency"] for chunk in metrics),
        "load_share_of_chunks": (inside["load_seconds"] + spent["EMBED_CHUNK"] - inside["seconds"]) / spent["EMBED_CHUNK"],
        "longest_over_mean_chunk": max(chunk_seconds) / statistics.mean(chunk_seconds),
    }  # fmt: skip


def table(cell: Dict[str, object]) -> str:
    """A cell as text."""
    wall = cell["wall_seconds"]
    lines = [f"\n{cell['model']}, {cell['input']}: {cell['sequences']} sequences, {cell['tokens']} tokens, {cell['chunks']} chunks"]
    lines += [f"  {seconds:9.1f} s {seconds / wall:6.1%}  {what}" for what, seconds in cell["seconds"].items()]
    lines.append(
        f"  {wall:9.1f} s         wall clock; not forward passes: {cell['overhead_share']:.1%}; {cell['tokens_per_wall_second']:.0f} tokens/s over all"
    )
    return "\n".join(lines)


def main(options: Options) -> None:
    device = usable_device("cuda" if "gpu" in options.profile.split(",") else "cpu")
    torch.set_num_threads(os.cpu_count() or 1)
    today = datetime.datetime.now(datetime.timezone.utc)
    out = Path(options.out) if options.out else HERE / "results" / f"pipeline-{device.type}-{today:%Y-%m-%d}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    shown = {**asdict(options), "fasta": Path(options.fasta).name, "out": out.name, "folder": Path(options.folder).name}
    report = {"benchmark": "pipeline", "started": today.isoformat(timespec="seconds"), "machine": machine(device), "options": shown, "cells": []}
    proteome = [record.sequence for record in read_fasta(Path(options.fasta))]
    inputs, models = options.inputs.split(","), options.models.split(",")
    for wanted, model in zip(inputs, models if len(models) > 1 else models * len(inputs)):
        folder = Path(tempfile.mkdtemp(prefix="pipeline-", dir=options.folder)).resolve()
        try:
            residues = write_input(folder / "input.fasta", wanted, proteome)
            log.info("%s, %s: %d residues", MODELS[model], wanted, residues)
            wall = run_nextflow(folder, MODELS[model], options.profile)
            check_embeddings(folder / "results" / "embeddings.h5")
            report["cells"].append(dict(model=MODELS[model], input=wanted, residues=residues, **breakdown(folder, wall)))
        finally:
            shutil.rmtree(folder)
        write_text(out, json.dumps(report, indent=1) + "\n")
        print(table(report["cells"][-1]), flush=True)
    log.info("wrote %s", out)


if __name__ == "__main__":
    sys.exit(run(Options, main))
