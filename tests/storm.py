"""A storm of SIGKILLs at random instants on real runs: workers, the shells around tasks, Nextflow itself.

Half of the kills hit runs with one pack budget, which have to end in the very bits of an undisturbed run; half hit runs
whose budget is drawn anew at each start, which have to end within the fp32 bound. Checkpoint intervals are always drawn.
"""

import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import List

from protembed.cli import run
from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2
from tests.conftest import FP32_BOUND
from tests.kills import ECOLI_FASTA, NEXTFLOW, TWO_WORKERS, WORKER, WRAPPER, compared, leaving_nothing, living
from tests.nextflow import kill, run_pipeline, start_pipeline, wait_for

BUDGET, BUDGETS = 1024, [256, 512, 1024, 2048, 4096]  # tokens
INTERVALS = [0, 0.1, 0.3, 1, 3]  # seconds
SHARES = {WRAPPER: 25, NEXTFLOW: 15}  # per cent of the kills; the others hit workers
PATIENCE = 400  # seconds without a kill until a run ends, on a slow and busy machine


@dataclass(frozen=True)
class Options:
    kills: int = field(default=200, metadata=dict(help="SIGKILLs that hit (default: 200)"))
    seed: int = field(default=0, metadata=dict(help="of victims, instants and parameters (default: 0)"))


def undisturbed_run(folder: Path) -> List[object]:
    """Make `folder` with a model and results that nobody disturbed; the arguments of any other run like it."""
    folder.mkdir()
    save_esm2(random_esm2(Shape(3, 128, 2), seed=5), folder / "drawn.pt")
    (folder / "two_workers.config").write_text(TWO_WORKERS)
    arguments = ["--input", ECOLI_FASTA, "--model", folder / "drawn.pt", "--weights_dir", folder / "downloads", "--chunk_residues", 65536]
    arguments += ["--report", "false", "-c", folder / "two_workers.config"]
    with leaving_nothing(folder):
        run_pipeline(folder, *arguments, "--max_tokens", BUDGET)
    return arguments


class Storm:
    """Kills runs in `folder` until the deck is used up; a run that came to its end is followed by a new one, from nothing."""

    def __init__(self, folder: Path, arguments: List[object], kills: int, redraw_budget: bool, seed: int):
        self.folder, self.arguments, self.redraw_budget, self.drawn = folder, arguments, redraw_budget, random.Random(seed)
        few = {kind: max(1, kills * share // 100) for kind, share in SHARES.items()}
        self.deck = [WORKER] * (kills - sum(few.values())) + [kind for kind, number in few.items() for _ in range(number)]
        self.drawn.shuffle(self.deck)  # kinds of the victims to come
        self.hits: Counter = Counter()
        self.starts, self.budget = 0, BUDGET
        self.finished: List[Path] = []

    def rage(self) -> None:
        """Until all kills have hit and the last run has come to its end."""
        while self.deck:
            place = self.folder / f"input{len(self.finished)}"
            place.mkdir(parents=True)
            self.finish(place)
            wait_for(lambda: not any(living(place).values()))  # noqa: B023
            self.finished.append(place)

    def finish(self, place: Path) -> None:
        """Start with -resume until a run ends well; one that begins when all kills have hit has to."""
        while True:
            disturbed = bool(self.deck)
            run = self.start(place)
            while self.deck and not ended(run, self.delay()):
                self.kill_one(place, run)
            code = run.wait(PATIENCE)
            output = (place / "console.txt").read_text()
            assert set(re.findall(r"error exit status \((\d+)\)", output)) <= {"137"}, output
            if code == 0:
                return
            assert disturbed, output

    def start(self, place: Path) -> subprocess.Popen:
        self.starts += 1
        if self.redraw_budget:
            self.budget = self.drawn.choice([budget for budget in BUDGETS if budget != self.budget])
        return start_pipeline(place, *self.arguments, "--max_tokens", self.budget, "--checkpoint_seconds", self.drawn.choice(INTERVALS), "-resume")

    def delay(self) -> float:
        """Seconds to the next kill: mostly long enough for some worker to load and commit, sometimes hardly any."""
        return self.drawn.uniform(0, 0.3) if self.drawn.random() < 0.3 else self.drawn.uniform(0.5, 5)

    def kill_one(self, place: Path, run: subprocess.Popen) -> None:
        """The next of the deck whose kind lives just now; it leaves the deck when the kill hit."""
        found = {kind: sorted(pids) for kind, pids in living(place).items() if pids}
        kind = next((kind for kind in self.deck if kind in found), None)
        if kind and kill(self.drawn.choice(found[kind])):
            self.deck.remove(kind)
            self.hits[kind] += 1
            if kind == NEXTFLOW:
                run.wait()


def ended(run: subprocess.Popen, seconds: float) -> bool:
    """Whether the run ends by itself within these seconds."""
    try:
        run.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        return False


def storm(folder: Path, golden: Path, arguments: List[object], kills: int, redraw_budget: bool, seed: int) -> str:
    """What happened, in a line; AssertionError when a result differs from that of `golden` by more than it may."""
    print(f"storm with seed {seed}: {kills} kills, {'budgets drawn anew' if redraw_budget else 'one budget'}", flush=True)
    started = time.monotonic()
    blows = Storm(folder, arguments, kills, redraw_budget, seed)
    with leaving_nothing(folder):
        blows.rage()
    results = [compared(*(place / "results" / "embeddings.h5" for place in (golden, killed))) for killed in blows.finished]
    for result in results:
        assert result.same_ids and result.same_flags and result.worst <= FP32_BOUND, f"seed {seed}: {result}"
        assert redraw_budget or (result.same_content and result.differing == 0), f"seed {seed}: {result}"
    outcome = f"worst relative L2 {max(result.worst for result in results):.1e}" if redraw_budget else "all bit-identical"
    hits = ", ".join(f"{number} {kind}" for kind, number in sorted(blows.hits.items()))
    return f"{kills} kills ({hits}), {blows.starts} starts, {len(results)} finished files, {time.monotonic() - started:.0f} s: {outcome}"


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        golden = folder / "golden"
        arguments = undisturbed_run(golden)
        for redraw_budget, kills in [(False, options.kills - options.kills // 2), (True, options.kills // 2)]:
            print(storm(folder / str(redraw_budget), golden, arguments, kills, redraw_budget, options.seed), flush=True)


if __name__ == "__main__":
    sys.exit(run(Options, main))
