#!/usr/bin/env python3
"""Split and merge of very many records: rates against a minimal reader and against cp, peak memory, number of files.

Generated records, the real scripts as processes of their own. Between them stand chunk files that protembed's own writer has
filled with given vectors instead of a model's. Writes JSON.
"""

import contextlib
import datetime
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
BIN = HERE.parent / "bin"
sys.path.insert(0, str(BIN))

from protembed.atomic import write_text  # noqa: E402
from protembed.chunk_file import ChunkContent, RowVectors, write_chunk_file  # noqa: E402
from protembed.cli import log, run  # noqa: E402
from protembed.errors import Incomplete  # noqa: E402
from protembed.identity import Identity  # noqa: E402
from protembed.proteins import read_fasta  # noqa: E402

LETTERS = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
ROWS_PER_BATCH = 4096
MINIMAL = """import hashlib, sys
from Bio.SeqIO.FastaIO import SimpleFastaParser
with open(sys.argv[1]) as handle:
    for title, sequence in SimpleFastaParser(handle):
        hashlib.sha256(sequence.encode()).digest()
"""


@dataclass(frozen=True)
class Options:
    records: int = field(default=1_000_000, metadata=dict(help="records to generate (default: 1000000)"))
    residues: int = field(default=300, metadata=dict(help="median length; lengths are log-normal, sigma 0.5 (default: 300)"))
    wrap: int = field(default=60, metadata=dict(help="residues per line; 0: a sequence is one line (default: 60)"))
    width: int = field(default=1280, metadata=dict(help="of the vectors (default: 1280, as 650M has); 0: the split alone"))
    used_memory: float = field(default=0.7, metadata=dict(help="share of it that holds pages of files before each copy or merge (default: 0.7)"))
    rounds: int = field(default=3, metadata=dict(help="runs of everything that has a rate, in turns (default: 3)"))
    folder: str = field(default=".", metadata=dict(help="where a temporary folder is made, on the disk to measure (default: .)"))
    out: str = field(default="", metadata=dict(help="JSON file, a cell is added to it (default: results/scale-<date>.json beside this script)"))


def write_records(path: Path, options: Options) -> None:
    """A FASTA with UniProt's kind of headers."""
    drawn = np.random.default_rng(0)
    wrap = options.wrap or sys.maxsize
    with open(path, "wb") as fasta:
        for start in range(0, options.records, 20000):
            lengths = np.clip(drawn.lognormal(np.log(options.residues), 0.5, min(20000, options.records - start)), 20, 3000).astype(int)
            text, ends = LETTERS[drawn.integers(0, 20, lengths.sum())].tobytes(), np.cumsum(lengths).tolist()
            for number, (length, end) in enumerate(zip(lengths.tolist(), ends), start):
                sequence = text[end - length : end]
                lines = b"\n".join(sequence[at : at + wrap] for at in range(0, length, wrap))
                fasta.write(b">tr|A%09d|A%09d_TEST some protein OS=Generated\n%s\n" % (number, number, lines))


def measured(*command: object) -> dict:
    """Seconds of a command, its CPU seconds and its peak memory. Incomplete with its message when it fails."""
    before, started, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0
    processes: list = []
    looks = 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(list(map(str, command)), stderr=said)
        while process.poll() is None:  # ru_maxrss would count what this process had when it forked
            if looks % 10 == 0:
                processes = with_children(process.pid)  # what they share is counted twice
            looks += 1
            peak = max(peak, sum(int(kilobytes) << 10 for pid in processes for kilobytes in re.findall(r"VmHWM:\s+(\d+)", status_of(pid))))
            time.sleep(0.02)
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        said.seek(0)
        if process.returncode:
            raise Incomplete(f"{command[1]} failed: {said.read()[-500:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak}


def status_of(pid: object) -> str:
    """/proc/<pid>/status; empty when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/status").read_text()
    return ""


def with_children(pid: int) -> list:
    """A process and those that it has begun."""
    return [pid, *(other.name for other in Path("/proc").glob("[0-9]*") if f"\nPPid:\t{pid}\n" in status_of(other.name))]


def use_memory(share: float, folder: Path, inputs: list) -> None:
    """Leave memory as on a machine that has run for long: full of pages of files, among them the inputs.

    A virtual machine that was idle gets its pages from the host at first touch, which would cost the one that comes first or last.
    """
    with open("/proc/meminfo") as handle:
        total = int(next(line for line in handle if line.startswith("MemTotal")).split()[1]) * 1024
    with open(folder / "sparse", "wb") as sparse:
        sparse.truncate(int(share * total))
    for path in (folder / "sparse", *inputs, *inputs):  # twice, or they would be the first to be forgotten
        with open(path, "rb", buffering=0) as handle:
            while handle.read(1 << 20):
                pass


def fill_chunks(split: Path, folder: Path, width: int) -> int:
    """A chunk file for each chunk, from given vectors, by the real writer. Returns their bytes."""
    identity = Identity("0" * 64, (33,), ("mean",), "float16", "truncate", 1022)
    given = np.random.default_rng(1).standard_normal((ROWS_PER_BATCH, width)).astype(np.float32)
    folder.mkdir()
    for chunk in sorted((split / "chunks").iterdir()):
        records = [(record.id, min(len(record.sequence), 1022)) for record in read_fasta(chunk)]
        content = ChunkContent(
            identity, [bytes.fromhex(name) for name, _ in records], [length for _, length in records], width, {}, {"torch": "-", "device": "-"}
        )

        def batches(count: int):
            for start in range(0, count, ROWS_PER_BATCH):
                rows = np.arange(start, min(start + ROWS_PER_BATCH, count))
                yield RowVectors(rows, np.zeros(len(rows), np.uint8), {"representations/33/mean": given[: len(rows)]})

        write_chunk_file(folder / f"{chunk.stem}.h5", content, batches(len(records)))
    return sum(path.stat().st_size for path in folder.iterdir())


def of_rounds(runs: list) -> dict:
    """The median time, the worst memory, and every time."""
    ranked = sorted(runs, key=lambda one: one["seconds"])
    return {**ranked[len(ranked) // 2], "peak_bytes": max(one["peak_bytes"] for one in runs), "all_seconds": [one["seconds"] for one in runs]}


def measure(folder: Path, options: Options) -> dict:
    """All figures of one size of input."""
    fasta, split, chunks = folder / "input.fasta", folder / "split", folder / "vectors"
    write_records(fasta, options)
    script = [sys.executable, BIN / "split_fasta.py", fasta, "--outdir", split, "--model", "esm2_t33_650M_UR50D", "--device", "cuda", "--sample", 16]
    turns = [(measured(sys.executable, "-c", MINIMAL, fasta), measured(*script)) for _ in range(options.rounds)]
    minimal, ours = (of_rounds(list(runs)) for runs in zip(*turns))
    cell = {"fasta_bytes": fasta.stat().st_size, "minimal": minimal, "split": ours, "split_over_minimal": ours["seconds"] / minimal["seconds"]}
    cell["records_per_second"] = options.records / ours["seconds"]
    fasta.unlink()
    if not options.width:
        return cell
    cell["vector_bytes"], cell["chunks"] = fill_chunks(split, chunks, options.width), len(list((split / "chunks").iterdir()))
    (folder / "weights.json").write_text(json.dumps({"model": "given", "random": 1}))
    merge = [sys.executable, BIN / "merge_chunks.py", *chunks.iterdir(), "--records", split / "records.tsv", "--weights", folder / "weights.json"]
    copying, merging = [], []

    def with_memory_in_use(*command: object) -> dict:
        use_memory(options.used_memory, folder, [*chunks.iterdir(), split / "records.tsv"])
        return measured(*command)

    for _ in range(options.rounds):
        copying.append(with_memory_in_use("bash", "-c", 'cp -r "$0" "$1" && sync "$1"/*', chunks, folder / "copy"))
        shutil.rmtree(folder / "copy")
        merging.append(with_memory_in_use(*merge, "--outdir", folder / "out"))
        cell["published"] = sorted(path.name for path in (folder / "out").iterdir())
        shutil.rmtree(folder / "out")
    cell["cp"], cell["merge"] = of_rounds(copying), of_rounds(merging)
    cell["merge_rate_over_cp"] = cell["cp"]["seconds"] / cell["merge"]["seconds"]
    return cell


def main(options: Options) -> None:
    today = datetime.datetime.now(datetime.timezone.utc)
    out = Path(options.out) if options.out else HERE / "results" / f"scale-{today:%Y-%m-%d}.json"
    report = json.loads(out.read_text()) if out.exists() else {"benchmark": "scale", "cells": []}
    with open("/proc/cpuinfo") as handle:
        cpu = next((line.split(":", 1)[1].strip() for line in handle if line.startswith("model name")), "-")
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir=options.folder))
    try:
        machine = {"cpu": cpu, "cores": os.cpu_count(), "load_at_start": os.getloadavg(), "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}
        shown = {**asdict(options), "out": out.name, "folder": Path(options.folder).name}
        cell = {"started": today.isoformat(timespec="seconds"), "machine": machine, "options": shown, **measure(folder, options)}
    finally:
        shutil.rmtree(folder)
    report["cells"].append(cell)
    write_text(out, json.dumps(report, indent=1) + "\n")
    log.info("split: %(records_per_second).0f records/s, %(split_over_minimal).2f times the minimal reader's time", cell)
    if options.width:
        log.info("merge: %(merge_rate_over_cp).2f of the rate of cp and sync, %(chunks)d chunks", cell)
    log.info("peak memory: split %d MB, merge %d MB", cell["split"]["peak_bytes"] >> 20, cell.get("merge", {}).get("peak_bytes", 0) >> 20)


if __name__ == "__main__":
    sys.exit(run(Options, main))
