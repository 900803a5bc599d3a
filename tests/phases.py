"""Starts real Nextflow again and again in one folder, and ends it in a phase of the test's choice.

A task is held inside its phase by held/sitecustomize.py, so that the phase is certain. Publishing is done by Nextflow
itself: it is stopped while the copy of embeddings.h5 grows.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import torch

from tests.crash_jobs import durable_batches, litter
from tests.nextflow import Run, content, is_alive, start_pipeline, wait_for


class Place(NamedTuple):
    """A file operation: audit event, pattern of the path, how often it is let pass."""

    event: str
    path: str
    skip: int = 0


PLACES: Dict[str, Place] = {
    "split": Place("os.rename", r"records\.tsv$"),
    "weights": Place("os.rename", r"weights\.json$"),
    "before the first batch": Place("os.link", r"/batch_\d{5}\.pt$"),
    "mid-batch": Place("os.link", r"/batch_\d{5}\.pt\.done$", 2),  # the data of the third batch is durable, its marker is not
    "before the chunk file": Place("open", r"\.chunk_\w+\.h5\..*\.tmp$"),
    "verify": Place("os.rename", r"verify\.json$"),
    "merge": Place("os.rename", r"embeddings\.h5$"),
}
PUBLISHING = "publishing"
PHASES = [*PLACES, PUBLISHING]
AFTER_EMBEDDING = PHASES[5:]
CTRL_C = "Ctrl-C"  # SIGINT to Nextflow and all of its tasks, as a terminal sends it
SIGNALS = ["SIGINT", "SIGTERM", "SIGKILL"]


class Folder:
    """A launch folder, the arguments of its runs, and what the kills so far have left in it."""

    def __init__(self, path: Path, arguments: List[object], parser: str):
        self.path, self.arguments, self.parser = path, arguments, parser
        self.kills: List[str] = []  # the phases
        self.orphans: List[int] = []
        self.runs: List[subprocess.Popen] = []
        self.reusable = 0  # rows in durable batches when the embedding was last killed
        path.mkdir()

    def gate(self, number: int) -> str:
        return str(self.path / f"gate-{number}")

    def start(self, held_from: str = PUBLISHING) -> subprocess.Popen:
        """A run that is held in this and all later phases; it opens the gates of the killed runs when it comes to where they stood."""
        rules = [
            dict(PLACES[name]._asdict(), skip=0, name=name, gate=self.gate(number), hold=False)
            for number, killed in enumerate(self.kills)
            for name in PHASES[PHASES.index(killed) : -1]
        ]
        rules += [dict(PLACES[name]._asdict(), name=name, gate=self.gate(len(self.kills)), hold=True) for name in PHASES[PHASES.index(held_from) : -1]]
        return self.start_held(rules)

    def start_held(self, rules: List[dict]) -> subprocess.Popen:
        """A run under these rules of held/sitecustomize.py; -resume when one was killed before."""
        environment = {"PYTHONPATH": str(Path(__file__).parent / "held"), "HELD_AT": json.dumps(rules)}
        resume = ["-resume"] if self.kills else []
        self.runs.append(start_pipeline(self.path, *self.arguments, *resume, parser=self.parser, env=environment))
        return self.runs[-1]

    def end_all(self) -> None:
        """End what still lives of any run, its orphans too: they are of its process group."""
        for run in self.runs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()

    def held(self, phase: str = "*") -> List[int]:
        """Processes of the latest run that were held in the phase."""
        return [int(path.suffix[1:]) for path in self.path.glob(f"gate-{len(self.kills)}.{phase}.*")]

    def console(self) -> str:
        return (self.path / "console.txt").read_text()

    def kill_in(self, phase: str, name: str) -> None:
        """Start a run, end Nextflow by the signal when it is in the phase, and see what its tasks do."""
        run = self.stop_in_publishing() if phase == PUBLISHING else self.start(held_from=phase)
        if phase != PUBLISHING:
            wait_for(lambda: self.held(phase), still=lambda: run.poll() is None, told=self.console)
        wait_for(lambda: not any(map(is_alive, self.orphans)))  # of earlier kills: they had their time beside this run
        if phase not in AFTER_EMBEDDING:
            self.reusable = len(self.durable_rows())
        (os.killpg if name == CTRL_C else os.kill)(run.pid, signal.SIGINT if name == CTRL_C else signal.Signals[name])
        os.kill(run.pid, signal.SIGCONT)
        assert run.wait(60) != 0
        if name == "SIGKILL":
            assert all(map(is_alive, self.held())), "the orphan should live on"
            self.orphans += self.held()
        else:
            wait_for(lambda: not any(map(is_alive, self.held())))
        self.kills.append(phase)

    def durable_rows(self) -> List[int]:
        """Rows of the only chunk that are in durable batches; an orphan and its successor may both have made one."""
        batches = durable_batches(self.path / "work" / "checkpoints")
        return sorted({row for batch in batches for row in torch.load(batch, weights_only=True)["rows"].tolist()})

    def stop_in_publishing(self) -> subprocess.Popen:
        """A run that is stopped while the copy in the output folder is not complete."""
        copy = self.path / "results" / "embeddings.h5"
        for _ in range(5):
            run = self.start()
            wait_for(copy.exists, still=lambda run=run: run.poll() is None, told=self.console)
            os.kill(run.pid, signal.SIGSTOP)
            if copy.stat().st_size < max(path.stat().st_size for path in self.path.glob("work/*/*/embeddings.h5")):
                return run
            os.kill(run.pid, signal.SIGCONT)  # too late: the machine had other things to do
            assert run.wait(300) == 0
            shutil.rmtree(copy.parent)
            self.kills = self.kills or [PUBLISHING]  # the next one resumes
        raise AssertionError("the copy was never seen to grow")

    def finish(self) -> Run:
        """The last run, to its end, and the end of all orphans."""
        code = self.start().wait(300)
        wait_for(lambda: not any(map(is_alive, self.orphans)))
        return Run(code, self.console())

    def result(self) -> Tuple[str, bytes]:
        """Digest of all vectors in the verified embeddings.h5, and the ledger."""
        return content(self.path), (self.path / "results" / "ledger.tsv").read_bytes()

    def leftovers(self) -> set:
        """What is in the checkpoint folder beside the anchor, and temporary files of the results."""
        root = self.path / "work" / "checkpoints"
        return {str(path.relative_to(root)) for path in root.rglob("*")} - {".protembed-anchor"} | litter(self.path / "results")


def counted(output: str) -> Tuple[int, int]:
    """(sequences computed, taken from checkpoints) as the closing words say."""
    computed, reused = re.search(r"(\d+) sequences computed, (\d+) from checkpoints", output).groups()
    return int(computed), int(reused)
