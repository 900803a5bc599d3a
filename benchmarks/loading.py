#!/usr/bin/env python3
"""How fast weights load: ours against fair-esm's own loader and against reading the file, in one run.

A file of the real size with meaningless numbers is made once. Each loader runs in a process of its own, in turns, from the page
cache and, where the system lets us drop it (root), from the disk. `ours` is what EMBED_CHUNK does before its first pack: the
mapped file to an engine of the device's dtype. `ours_module` is what VERIFY does, fair-esm's module in fp32. Writes JSON.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bin")]

import torch  # noqa: E402
from argparse_dataclass import ArgumentParser  # noqa: E402
from esm.pretrained import load_model_and_alphabet_core  # noqa: E402
from measuring import machine, peak_resident  # noqa: E402

from protembed.device import usable_device  # noqa: E402
from protembed.esm2 import PackedESM2  # noqa: E402
from protembed.shapes import SHAPES  # noqa: E402
from protembed.weights import load_esm2, save_esm2  # noqa: E402

BLOCK = 16 << 20


@dataclass(frozen=True)
class Options:
    models: str = field(default="650M,3B", metadata=dict(help="of 8M, 35M, 150M, 650M, 3B (default: 650M,3B)"))
    device: str = field(default="cpu", metadata=dict(choices=["cpu", "cuda"], help="where the engine goes (default: cpu)"))
    rounds: int = field(default=3, metadata=dict(help="times that each loader runs (default: 3)"))
    from_memory: bool = field(default=False, metadata=dict(help="not from the disk, too: nothing of other programs is forgotten by the system"))
    folder: str = field(default=".", metadata=dict(help="for the files, on a disk (default: .)"))
    out: str = field(default="", metadata=dict(help="JSON (default: benchmarks/results/loading-<device>-<date>.json)"))


def read_file(path: Path, device: torch.device) -> None:
    """The limit: every byte once."""
    with open(path, "rb", buffering=0) as handle:
        block = bytearray(BLOCK)
        while handle.readinto(block):
            pass


def fair_esm(path: Path, device: torch.device) -> object:
    """fair-esm's own way: load_model_and_alphabet_local without the regression file."""
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore")
        content = torch.load(path, map_location="cpu", weights_only=True)
        return load_model_and_alphabet_core("esm2", content)[0].eval().to(device)


def ours(path: Path, device: torch.device) -> object:
    """What EMBED_CHUNK does."""
    model = load_esm2(path)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return PackedESM2(model, (model.num_layers,), ("mean",), dtype, device)


def ours_module(path: Path, device: torch.device) -> object:
    """What VERIFY_EMBEDDINGS does."""
    return load_esm2(path).to(device).float()


LOADERS = {function.__name__: function for function in (read_file, fair_esm, ours_module, ours)}


def timed(name: str, path: Path, device: str, answers) -> None:
    """In a process of its own: seconds and peak memory of one load; a CUDA context is there before."""
    where = usable_device(device)
    torch.zeros(1, device=where)
    kept, seconds = [], []

    def load() -> None:
        started = time.perf_counter()
        kept.append(LOADERS[name](path, where))
        if where.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)

    peak = peak_resident(load)
    answers.put((seconds[0], peak))


def make_file(path: Path, model: str) -> None:
    """A file in fair-esm's format, half precision as the published 3B; numbers that cost no time."""
    from esm.model.esm2 import ESM2

    shape = next(SHAPES[name] for name in SHAPES if f"_{model}_" in name)
    with torch.device("meta"):
        esm2 = ESM2(num_layers=shape.layers, embed_dim=shape.width, attention_heads=shape.heads)
    esm2.to_empty(device="cpu")
    for value in esm2.state_dict().values():
        value.fill_(0.01)
    save_esm2(esm2, path)


def drop_caches() -> bool:
    """Whether the next read comes from the disk."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")
        return True
    except OSError:
        return False


def measure(path: Path, options: Options) -> list:
    """All loaders in turns: first from the disk, then from memory."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    found = {(name, cold): [] for name in LOADERS for cold in (True, False)}
    for _ in range(options.rounds):
        for cold in (True, False):
            for name in LOADERS:
                if cold and (options.from_memory or not drop_caches()):
                    continue
                process = context.Process(target=timed, args=(name, path, options.device, answers))
                process.start()
                found[name, cold].append(answers.get(timeout=900))
                process.join()
    size = path.stat().st_size
    lines = []
    for (name, cold), runs in found.items():
        if runs:
            least = statistics.median(seconds for seconds, _ in found["read_file", cold])
            seconds, peak = statistics.median(run[0] for run in runs), max(run[1] or 0 for run in runs)
            lines.append(dict(loader=name, from_disk=cold, seconds=seconds, over_reading=seconds / least, peak_over_file=peak / size, runs=runs))
    return lines


def main(options: Options) -> None:
    device = usable_device(options.device)
    shown = {**vars(options), "out": Path(options.out).name, "folder": Path(options.folder).name}
    result = dict(benchmark="loading", machine=machine(device), options=shown, cells=[])
    for model in options.models.split(","):
        path = Path(options.folder) / f"loading-{model}.pt"
        try:
            make_file(path, model)
            cell = dict(model=model, file_bytes=path.stat().st_size, loaders=measure(path, options))
        finally:
            path.unlink(missing_ok=True)
        result["cells"].append(cell)
        for line in cell["loaders"]:
            source, speed = "disk" if line["from_disk"] else "memory", f"{line['seconds']:7.2f} s {line['over_reading']:6.2f} x reading"
            print(f"{model:5} {line['loader']:12} {source:7} {speed}, peak {line['peak_over_file']:.2f} x file")
    out = Path(options.out or HERE / "results" / f"loading-{options.device}-{datetime.date.today()}.json")
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(ArgumentParser(Options).parse_args())
