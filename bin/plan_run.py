#!/usr/bin/env python3
"""Say what a run would take, before anything is embedded: chunks, tokens, memory, disk, time. Writes plan.txt.

Time on a CPU is reckoned from the committed benchmarks (two cores of an AMD EPYC, fp32): a machine with other cores is faster or
slower, by a factor of two either way. No benchmark of a GPU is committed; its time is reckoned from an assumed rate.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import List

from protembed.atomic import write_text
from protembed.cli import run
from protembed.errors import BadInput
from protembed.layout import SPECIAL_TOKENS
from protembed.shapes import DEVICES, READING, Shape, guessed_shape

FLOPS_PER_CORE = 7.5e10  # per second, attention's included; benchmarks/results/embed-cpu-*.json say 6.2e10 to 8.9e10
BYTES_PER_TOKEN = 100  # and unit of width, in a forward pass: the same say 78 to 128
PYTHON_AND_TORCH = 0.5e9  # bytes
CPU_PACK, GPU_PACK = 4096, 65536  # tokens of a forward pass unless --max-tokens says another


@dataclass(frozen=True)
class Options:
    totals: str = field(metadata=dict(args=["totals"], help="split.json written by split_fasta.py"))
    model: str = field(metadata=dict(help="what --model will be"))
    model_bytes: int = field(default=0, metadata=dict(help="size of the file when the model is a local one (default: 0)"))
    device: str = field(default="cpu", metadata=dict(choices=["cpu", "cuda"], help="what will compute (default: cpu)"))
    units: int = field(default=1, metadata=dict(help="CPU cores, or GPUs, that compute at once (default: 1)"))
    max_tokens: int = field(default=0, metadata=dict(help="tokens of a forward pass; 0: by device (default: 0)"))
    vectors: int = field(default=1, metadata=dict(help="vectors that are kept of each sequence (default: 1)"))
    residue_vectors: int = field(default=0, metadata=dict(help="vectors that are kept of each residue (default: 0)"))
    store_bytes: int = field(default=4, metadata=dict(help="bytes of a stored number (default: 4)"))
    outdir: str = field(default=".", metadata=dict(help="where plan.txt goes (default: .)"))


def seconds_of(shape: Shape, device: str, units: int, sequences: int, residues: int) -> float:
    """Of forward passes; sequences are taken to be of one length."""
    work = sequences * shape.work(residues // max(1, sequences))
    rate = FLOPS_PER_CORE if device == "cpu" else DEVICES[device].flops
    return work * shape.flops_per_token / (rate * units)


def memory_of(shape: Shape, device: str, max_tokens: int) -> float:
    """Bytes of one task: weights (12 D^2 a layer, in 4 bytes on a CPU, in 2 on a GPU), a forward pass, Python."""
    tokens = max_tokens or (CPU_PACK if device == "cpu" else GPU_PACK)
    weights = shape.flops_per_token / 2 * (4 if device == "cpu" else 2)
    return weights + BYTES_PER_TOKEN * shape.width * tokens + PYTHON_AND_TORCH


def amount(size: float) -> str:
    """Bytes in words."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def duration(seconds: float) -> str:
    """In words, of two digits."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{max(1, round(seconds))} seconds"


def plan(totals: dict, options: Options) -> List[str]:
    """The lines of plan.txt."""
    shape = guessed_shape(options.model, options.model_bytes)
    sequences, residues = totals["sequences"], totals["residues"]
    largest = max(totals["chunk_sizes"].values(), key=lambda size: size[1], default=(0, 0))
    numbers = shape.width * (options.vectors * totals["records"] + options.residue_vectors * residues)
    seconds = seconds_of(shape, options.device, options.units, sequences, residues)
    start = DEVICES[options.device].start_seconds + shape.flops_per_token / READING
    if options.device == "cpu":
        where, source = f"{options.units} CPU cores", "reckoned from benchmarks on two cores of an AMD EPYC; yours may differ by a factor of two"
    else:
        where, source = f"{options.units} GPUs", f"assumes {DEVICES['cuda'].flops:.0e} flop/s each; no benchmark of a GPU is committed yet"
    return [
        f"  tokens   {residues + SPECIAL_TOKENS * sequences:,} of {sequences:,} sequences in {len(totals['chunk_sizes']):,} chunks; "
        f"the largest has {largest[0]:,} sequences, {largest[1]:,} residues",
        f"  memory   some {amount(memory_of(shape, options.device, options.max_tokens))} for each task that embeds",
        f"  disk     embeddings.h5 some {amount(numbers * options.store_bytes)}, as much again for checkpoints and twice for chunks until the merge",
        f"  time     some {duration(seconds)} of forward passes on {where}, and {duration(start)} to start each chunk: an ESTIMATE,",
        f"           {source}",
        "nothing was embedded: leave --plan away to run it",
    ]


def main(options: Options) -> None:
    totals = json.loads(Path(options.totals).read_text(encoding="utf-8"))
    if "chunk_sizes" not in totals:
        raise BadInput(f"{options.totals} is not a split.json of split_fasta.py")
    write_text(Path(options.outdir) / "plan.txt", "\n".join(plan(totals, options)) + "\n")


if __name__ == "__main__":
    sys.exit(run(Options, main))
