"""1000 real proteins, 2 workers: kill one in mid-run, restart with -resume, again, and worse; then compare every bit.

Real Nextflow on this machine. Prints a report, writes its figures as JSON, and exits with 1 when a claim does not hold.
"""

import json
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, List

import h5py

from protembed.cli import run
from protembed.proteins import read_fasta
from tests.drill import Drill, drill
from tests.kills import ECOLI_FASTA, TWO_WORKERS, committed, compared, durable, leaving_nothing
from tests.nextflow import run_pipeline

SLACK = 2.0  # seconds that a busy machine may take on top
INTERVALS = 16  # between checkpoints, of a worker in the uninterrupted run: each of five kills waits for two and costs up to one


@dataclass(frozen=True)
class Options:
    model: str = field(default="random:esm2_t6_8M_UR50D", metadata=dict(help="as the pipeline's --model (default: random:esm2_t6_8M_UR50D)"))
    seconds: float = field(default=0.0, metadata=dict(help="between checkpoints; 0: a sixteenth of what a worker embeds (default: 0)"))
    max_tokens: int = field(default=4096, metadata=dict(help="tokens per pack (default: 4096)"))
    chunk_residues: int = field(default=65536, metadata=dict(help="residues per task to aim at (default: 65536)"))
    figures: str = field(default="results/kill_report.json", metadata=dict(help="where the figures go (default: results/kill_report.json)"))


def kill_report(folder: Path, options: Options) -> Dict[str, object]:
    """The figures of an uninterrupted run and of one that was killed in every way, both below `folder`."""
    golden, killed = folder / "golden", folder / "killed"
    golden.mkdir(), killed.mkdir()
    (folder / "two_workers.config").write_text(TWO_WORKERS)
    arguments = ["--input", ECOLI_FASTA, "--model", options.model, "--weights_dir", folder / "downloads", "--chunk_residues", options.chunk_residues]
    arguments += ["--max_tokens", options.max_tokens, "--keep_checkpoints", "--report", "false", "-c", folder / "two_workers.config"]
    with leaving_nothing(folder):
        started = time.monotonic()
        run_pipeline(golden, *arguments)
        seconds = time.monotonic() - started
        interval = options.seconds or interval_of(golden)
        done = drill(killed, [*arguments, "--checkpoint_seconds", interval], interval)
        return figures_of(golden, done, replace(options, seconds=interval), seconds)


def interval_of(golden: Path) -> float:
    """Seconds between checkpoints with which five kills find work on a machine of any speed."""
    per_worker = sum(metrics["embed_seconds"] for metrics in metrics_of_result(golden)) / 2
    return round(per_worker / INTERVALS, 2)


def metrics_of_result(folder: Path) -> List[Dict]:
    """The metrics of the very tasks whose files went into the result."""
    files = {path.resolve() for path in (folder / "work").glob("*/*/chunks/*.h5")}
    return [json.loads(path.with_suffix(".metrics.json").read_text()) for path in sorted(files)]


def total_of(tasks: List[Dict], name: str) -> int:
    return sum(metrics[name] for metrics in tasks)


def figures_of(golden: Path, done: Drill, options: Options, seconds: float) -> Dict[str, object]:
    """All that the report tells, and its claims with their verdicts."""
    whole, final, batches = metrics_of_result(golden), metrics_of_result(done.folder), durable(done.folder)
    same = compared(golden / "results" / "embeddings.h5", done.folder / "results" / "embeddings.h5")
    with h5py.File(done.folder / "results" / "embeddings.h5") as file:
        ids = file["sequence_ids"].asstr()[:].tolist()
    given = [record.id for record in read_fasta(ECOLI_FASTA)]
    total = total_of(whole, "sequences")
    computed, reused = map(int, re.search(r"(\d+) sequences computed, (\d+) from checkpoints", done.last.output).groups())
    times = Counter((batch.chunk, row) for batch in batches for row in batch.rows)
    twice = [key for key, number in times.items() if number > 1]
    orphaned = {chunk for kill in done.kills for chunk in kill.orphans}
    pack = max(metrics["embed_seconds"] / metrics["forward_passes"] for metrics in whole)
    kills = [
        dict(
            killed=kill.what,
            processes=kill.processes,
            durable=sum(map(len, committed(batches, kill.at).values())),
            uncommitted_seconds=round(max(kill.uncommitted.values(), default=0), 2),
        )
        for kill in done.kills
    ]
    claims = {
        "all 1000 ids, each once, in the order of the input": ids == given and len(set(ids)) == len(ids) == 1000,
        "content_sha256 is the uninterrupted run's": same.same_content,
        "every vector is the uninterrupted run's, bit for bit": same.differing == 0 and same.same_flags,
        "reused + computed = all": reused + computed == total == len(times),
        "every kill came in mid-run": all(0 < kill["durable"] < total for kill in kills),
        "no kill cost more than a checkpoint interval and the pack under way": all(
            kill["uncommitted_seconds"] <= options.seconds + 3 * pack + SLACK for kill in kills
        ),
        "no durable row was computed again, but by a living orphan and its successor": {chunk for chunk, _ in twice} <= orphaned,
    }
    return dict(
        model=Path(options.model).name, checkpoint_seconds=options.seconds, pack_seconds=round(pack, 2), golden_seconds=round(seconds, 1),
        records=len(ids), sequences=total, chunks=len(whole), golden_passes=total_of(whole, "forward_passes"),
        last_passes=total_of(final, "forward_passes"), reused=reused, computed=computed, rows_twice=len(twice),
        differing_vectors=same.differing, kills=kills, claims=claims,
    )  # fmt: skip


def as_text(figures: Dict) -> str:
    """The report as a person reads it."""
    lines = [
        "{records} proteins of E. coli ({sequences} different), {model}, 2 workers, {chunks} chunks, a checkpoint every {checkpoint_seconds:g} s".format(
            **figures
        ),
        "uninterrupted: {golden_seconds} s, {golden_passes} forward passes of {pack_seconds} s".format(**figures),
        "",
        "killed with SIGKILL                                  processes  durable rows   work lost",
        *("{killed:<52} {processes:>9} {durable:>13} {uncommitted_seconds:>9.2f} s".format(**kill) for kill in figures["kills"]),
        "",
        "in the end: {computed} sequences computed by the last attempts ({last_passes} forward passes), {reused} reused".format(**figures),
        "{rows_twice} sequences stand in two checkpoints".format(**figures),
        *(f"{'yes' if holds else 'NO '}  {claim}" for claim, holds in figures["claims"].items()),
    ]
    return "\n".join(lines)


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            figures = kill_report(Path(folder).resolve(), options)
        except AssertionError as missed:
            sys.exit(f"kill_report: {missed}")
    print(as_text(figures))
    path = Path(options.figures)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
    if not all(figures["claims"].values()):
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(run(Options, main))
