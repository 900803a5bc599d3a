#!/usr/bin/env python3
"""What the host does for each sequence, without the model's layers: how many sequences per second it can feed a GPU.

The real scripts run in this process on fragments of real proteins, and take layer 0, the embedding before the first layer:
reading, tokens, packs, embedding table, pooling, checkpoints and the chunk's HDF5 are all there. Writes JSON.
"""

import datetime
import json
import os
import runpy
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
BIN = HERE.parent / "bin"
sys.path.insert(0, str(BIN))

import torch  # noqa: E402
from measuring import machine  # noqa: E402
from pipeline import write_input  # noqa: E402

from protembed.atomic import write_text  # noqa: E402
from protembed.cli import log, run  # noqa: E402
from protembed.errors import Incomplete  # noqa: E402
from protembed.proteins import read_fasta  # noqa: E402
from protembed.shapes import Shape  # noqa: E402
from protembed.weights import describe, random_esm2, save_esm2  # noqa: E402


@dataclass(frozen=True)
class Options:
    inputs: str = field(default="50:100000,166:50000", metadata=dict(help="LENGTHS[:COUNT] as in pipeline.py (default: 50:100000,166:50000)"))
    width: int = field(default=1280, metadata=dict(help="of the vectors (default: 1280, as 650M has)"))
    fasta: str = field(default=str(HERE.parent / "assets" / "ecoli_demo.fasta.gz"), metadata=dict(help="the proteome (default: assets/ecoli_demo.fasta.gz)"))
    folder: str = field(default=".", metadata=dict(help="where a temporary folder is made, on a disk (default: .)"))
    out: str = field(default="", metadata=dict(help="JSON file (default: results/host-<date>.json beside this script)"))


def timed(script: str, *arguments: object) -> float:
    """Seconds of one script's main, argv to exit code, without starting Python."""
    space = runpy.run_path(str(BIN / script))
    sys.modules[space["Options"].__module__] = sys.modules["__main__"]  # where its options look for their docstring
    started = time.perf_counter()
    code = run(space["Options"], space["main"], list(map(str, arguments)))
    if code:
        raise Incomplete(f"{script} ended with {code}")
    return time.perf_counter() - started


def measure(folder: Path, wanted: str, proteome: list, weights: Path) -> dict:
    """Seconds and sequences per second of each step."""
    fasta, out = folder / "input.fasta", folder / "out"
    write_input(fasta, wanted, proteome)
    seconds = {"split": timed("split_fasta.py", fasta, "--outdir", out, "--chunk-residues", 1 << 27)}
    (chunk,) = (out / "chunks").iterdir()
    seconds["embed without layers"] = timed("embed_chunk.py", chunk, "--weights", weights, "--outdir", out, "--max-tokens", 65536, "--repr-layers", 0)
    seconds["merge"] = timed("merge_chunks.py", *out.glob("*.h5"), "--records", out / "records.tsv", "--weights", weights / "weights.json", "--outdir", out)
    sequences = json.loads((out / "split.json").read_text())["sequences"]
    return {"input": wanted, "sequences": sequences, "seconds": seconds, "sequences_per_second": {name: sequences / spent for name, spent in seconds.items()}}


def main(options: Options) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    today = datetime.datetime.now(datetime.timezone.utc)
    out = Path(options.out) if options.out else HERE / "results" / f"host-{today:%Y-%m-%d}.json"
    shown = {**asdict(options), "fasta": Path(options.fasta).name, "out": out.name, "folder": Path(options.folder).name}
    report = {"benchmark": "host", "started": today.isoformat(timespec="seconds"), "machine": machine(torch.device("cpu")), "options": shown, "cells": []}
    proteome = [record.sequence for record in read_fasta(Path(options.fasta))]
    for wanted in options.inputs.split(","):
        folder = Path(tempfile.mkdtemp(prefix="host-", dir=options.folder))
        try:
            weights = folder / "weights"
            weights.mkdir()
            save_esm2(random_esm2(Shape(1, options.width, options.width // 64)), weights / "model.pt")
            describe(weights / "model.pt", "random:one-layer", "seed 0").write(weights)
            cell = measure(folder, wanted, proteome, weights)
        finally:
            shutil.rmtree(folder)
        report["cells"].append(cell)
        write_text(out, json.dumps(report, indent=1) + "\n")
        for name, rate in cell["sequences_per_second"].items():
            print(f"{wanted:12} {name:22} {cell['seconds'][name]:7.2f} s {rate:10,.0f} sequences/s", flush=True)
    log.info("wrote %s", out)


if __name__ == "__main__":
    sys.exit(run(Options, main))
