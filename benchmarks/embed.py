#!/usr/bin/env python3
"""Compare embedding engines in one run: this project, fair-esm, transformers, on the same sequences and random weights.

Writes JSON (after every cell, so that a run may be stopped) and prints a table. README.md beside it says how to read them.
"""

import datetime
import json
import os
import random
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Dict, List, Sequence

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "bin"))

import torch  # noqa: E402
from engines import build_engines, transformers_version  # noqa: E402
from measuring import Measured, machine, means_of, measure  # noqa: E402

from protembed.atomic import write_text  # noqa: E402
from protembed.cli import log, run  # noqa: E402
from protembed.device import compute_exactly, usable_device  # noqa: E402
from protembed.errors import BadOption, Incomplete  # noqa: E402
from protembed.proteins import read_fasta  # noqa: E402
from protembed.shapes import SHAPES  # noqa: E402
from protembed.weights import random_esm2  # noqa: E402

MODELS = {name.split("_")[2]: name for name in SHAPES}  # 8M -> esm2_t6_8M_UR50D
MAX_RESIDUES = 1022
FP32_BOUND = 2e-5  # rel-L2 of a mean against fair-esm's
CHECKED_RESIDUES = 8000  # about how many are compared with fair-esm
LENGTHS_HELP = "comma separated: a number (fragments of that many residues or one less), ecoli (the proteome), lognormal (a mix) (default: all five)"
DTYPE_HELP = "of this project and transformers, comma separated; auto: float32, on a GPU float16 too (default: auto)"


@dataclass(frozen=True)
class Options:
    models: str = field(default="8M,35M,150M", metadata=dict(help=f"comma separated, any of {', '.join(MODELS)} (default: 8M,35M,150M)"))
    lengths: str = field(default="50,100,166,ecoli,lognormal", metadata=dict(help=LENGTHS_HELP))
    fasta: str = field(default=str(HERE.parent / "assets" / "ecoli_demo.fasta.gz"), metadata=dict(help="the proteome (default: assets/ecoli_demo.fasta.gz)"))
    seconds: float = field(default=60.0, metadata=dict(help="to measure each engine in each cell; slow ones take longer (default: 60)"))
    device: str = field(default="cpu", metadata=dict(choices=["cpu", "cuda"], help="where to compute (default: cpu)"))
    dtype: str = field(default="auto", metadata=dict(help=DTYPE_HELP))
    threads: int = field(default=0, metadata=dict(help="CPU threads; 0: all cores (default: 0)"))
    max_tokens: int = field(default=0, metadata=dict(help="pack budget of this project; 0: by device (default: 0)"))
    out: str = field(default="", metadata=dict(help="JSON file (default: results/embed-<device>-<date>.json beside this script)"))

    def __post_init__(self):
        dtypes = {"float32", "float16", "bfloat16", "auto"}
        for name, given, known in (("models", self.models, MODELS), ("dtype", self.dtype, dtypes)):
            for word in given.split(","):
                if word not in known:
                    raise BadOption(f"--{name} has {word!r}; choose from {', '.join(sorted(known))}")
        for word in self.lengths.split(","):
            if word not in ("ecoli", "lognormal") and not (word.isdecimal() and 2 <= int(word) <= MAX_RESIDUES):
                raise BadOption(f"--lengths has {word!r}; choose from ecoli, lognormal and numbers from 2 to {MAX_RESIDUES}")
        if self.seconds <= 0:
            raise BadOption("--seconds must be more than 0")


def length_set(name: str, proteome: Sequence[str]) -> List[str]:
    """Sequences with the lengths that `name` stands for; equal arguments give equal sequences."""
    if name == "ecoli":
        return [sequence[:MAX_RESIDUES] for sequence in proteome]
    generator = random.Random(0)
    if name == "lognormal":
        residues = "".join(proteome)
        sizes = [min(MAX_RESIDUES, max(20, round(generator.lognormvariate(5.6, 0.7)))) for _ in range(2000)]
        starts = [generator.randrange(max(1, len(residues) - size)) for size in sizes]
        return [residues[start : start + size] for start, size in zip(starts, sizes)]
    fragments, size = [], int(name)
    for sequence in proteome:
        start = 0
        while len(sequence) - start >= size:
            fragments.append(sequence[start : start + size - generator.randrange(2)])
            start += len(fragments[-1])
    if not fragments:
        raise BadOption(f"the proteome has no protein of {size} residues to cut fragments from")
    return fragments


def checked(sequences: Sequence[str]) -> List[str]:
    """A sample over all lengths, the shortest and the longest among them."""
    by_length = sorted(sequences, key=len)
    count = max(2, min(len(by_length), CHECKED_RESIDUES * len(by_length) // sum(map(len, by_length))))
    return [by_length[round(place * (len(by_length) - 1) / (count - 1))] for place in range(count)] if len(by_length) > 1 else by_length


def attention_over_products(sequences: Sequence[str], width: int) -> float:
    """Floating point operations of attention's two products (4 L D per token and layer) over those of the projections (24 D^2)."""
    counts = [len(sequence) + 2 for sequence in sequences]
    return sum(count**2 for count in counts) / sum(counts) / (6 * width)


def cell_of(engines: Sequence, measured: Sequence[Measured], sequences: Sequence[str], width: int) -> List[Dict[str, object]]:
    """What is reported of each engine, the limits left out."""
    tokens_per_sequence = sum(map(len, sequences)) / len(sequences) + 2
    attention = 1 + attention_over_products(sequences, width)
    limits: Dict[torch.dtype, float] = {}
    for engine, result in zip(engines, measured):
        if engine.name.startswith("matmul"):
            limits[engine.dtype] = max(limits.get(engine.dtype, 0.0), statistics.median(result.rates))
    place = [engine.name for engine in engines].index("fair-esm")
    sample = checked(sequences)
    reference = means_of(engines[place], sample)
    lines = []
    for engine, result in zip(engines, measured):
        rate = statistics.median(result.rates)
        line = {"engine": engine.name, "dtype": str(engine.dtype)[6:], "tokens_per_second": rate, "rates": result.rates, "passes": result.passes,
                "seconds": result.seconds}  # fmt: skip
        if not engine.name.startswith("matmul"):
            means = means_of(engine, sample)
            line.update(
                sequences_per_second=rate / tokens_per_sequence,
                ratio_to_fair_esm=statistics.median(ours / theirs for ours, theirs in zip(result.rates, measured[place].rates)),
                share_of_matmul_limit=rate / limits[engine.dtype] if engine.dtype in limits else None,
                share_with_attention=rate * attention / limits[engine.dtype] if engine.dtype in limits else None,
                packing_efficiency=result.plan.efficiency,
                working_bytes=result.working_bytes,
                worst_rel_l2=((means - reference).norm(dim=1) / reference.norm(dim=1)).max().item(),
                worst_cosine=torch.cosine_similarity(means, reference).min().item(),
                compared=len(sample),
            )
        lines.append(line)
    return lines


def table(cell: Dict[str, object]) -> str:
    """A cell as text."""
    lines = ["", f"{cell['model']}  {cell['lengths']}: {cell['sequences']} sequences, {cell['tokens']} tokens, {cell['rounds']} rounds"]
    lines.append(f"{'':24}{'tokens/s':>10}{'+-':>5}{'seq/s':>9}{'x fair-esm':>11}{'of limit':>9}{'w. att.':>8}{'packing':>9}{'MiB':>7}{'rel-L2':>9}")
    for line in cell["engines"]:
        half_range = (max(line["rates"]) - min(line["rates"])) / 2 / line["tokens_per_second"]
        text = f"{line['engine'] + ' ' + line['dtype']:24}{line['tokens_per_second']:10.0f}{half_range:5.0%}"
        if "packing_efficiency" in line:
            share, with_attention, held = line["share_of_matmul_limit"], line["share_with_attention"], line["working_bytes"]
            text += f"{line['sequences_per_second']:9.1f}{line['ratio_to_fair_esm']:11.2f}"
            text += f"{share:9.0%}{with_attention:8.0%}" if share else f"{'?':>9}{'?':>8}"
            text += f"{line['packing_efficiency']:9.1%}" + (f"{'?':>7}" if held is None else f"{held / 2**20:7.0f}") + f"{line['worst_rel_l2']:9.1e}"
        lines.append(text)
    return "\n".join(lines)


def main(options: Options) -> None:
    device = usable_device(options.device)
    compute_exactly()
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    auto = "float32" if options.device == "cpu" else "float32,float16"
    dtypes = [getattr(torch, name) for name in options.dtype.replace("auto", auto).split(",")]
    today = datetime.datetime.now(datetime.timezone.utc)
    out = Path(options.out) if options.out else HERE / "results" / f"embed-{options.device}-{today:%Y-%m-%d}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    proteome = [record.sequence for record in read_fasta(Path(options.fasta))]
    report = {
        "benchmark": "embed", "started": today.isoformat(timespec="seconds"), "machine": machine(device),
        "options": {**asdict(options), "fasta": Path(options.fasta).name, "out": out.name},
        "notes": [] if transformers_version() else ["transformers is not installed and was not measured"], "cells": [],
    }  # fmt: skip
    for model in options.models.split(","):
        shape = SHAPES[MODELS[model]]
        log.info("%s: drawing weights", MODELS[model])
        esm2 = random_esm2(shape)
        weights = sum(parameter.numel() for parameter in esm2.parameters())
        engines = build_engines(esm2, dtypes, device, options.max_tokens)
        for lengths in options.lengths.split(","):
            sequences = length_set(lengths, proteome)
            log.info("%s: %s, %d sequences", MODELS[model], lengths, len(sequences))
            measured = measure(engines, sequences, options.seconds, device)
            cell = {"model": MODELS[model], **shape._asdict(), "weights": weights, "lengths": lengths, "sequences": len(sequences),
                    "tokens": sum(map(len, sequences)) + 2 * len(sequences), "max_tokens": engines[0].max_tokens,
                    "rounds": len(measured[0].rates), "engines": cell_of(engines, measured, sequences, shape.width)}  # fmt: skip
            report["cells"].append(cell)
            write_text(out, json.dumps(report, indent=1) + "\n")
            print(table(cell), flush=True)
        del engines, esm2
    wrong = [
        f"{cell['model']} {cell['lengths']}: {line['worst_rel_l2']:.1e}"
        for cell in report["cells"]
        for line in cell["engines"]
        if line["engine"] == "protembed" and line["dtype"] == "float32" and not line["worst_rel_l2"] <= FP32_BOUND
    ]
    log.info("wrote %s", out)
    if wrong:
        raise Incomplete(f"means differ from fair-esm's by more than rel-L2 {FP32_BOUND:.0e}: {'; '.join(wrong)}")


if __name__ == "__main__":
    sys.exit(run(Options, main))
