"""The drill behind `python -m tests.kill_report`: one run that is killed in five ways, each time in mid-work, and resumed."""

import time
from pathlib import Path
from typing import Dict, List, NamedTuple

from tests.kills import NEXTFLOW, WORKER, WRAPPER, Worker, at_risk, durable, embedding_workers, living
from tests.nextflow import kill, run_pipeline, start_pipeline, wait_for

NO_RETRY = "process { withName: EMBED_CHUNK { errorStrategy = 'terminate' } }\n"
ONE_WORKER, AGAIN, IN_RUN = "a worker; the run fails, -resume", "again a worker; the run fails, -resume", "a worker; Nextflow retries it, the run goes on"
HEAD, EVERYTHING = "Nextflow; its workers live on, -resume beside them", "everything at once, -resume"
TOO_FAST = "the run was over before it could be killed in mid-work; give --seconds less, or a larger --model:\n"
PATIENCE = 400  # seconds for one step, on a slow and busy machine


class Kill(NamedTuple):
    """What was killed, and when."""

    what: str
    processes: int
    at: float  # seconds since 1970
    uncommitted: Dict[str, float]  # chunk -> seconds since its last commit; of the workers that were killed
    orphans: List[str]  # chunks whose workers lived on without their Nextflow


class Drill:
    """A run in one folder, its kills so far, and its last, undisturbed run."""

    def __init__(self, folder: Path, arguments: List[object], seconds: float):
        self.folder, self.arguments, self.seconds = folder, arguments, seconds
        self.kills: List[Kill] = []

    def start(self, *more: object) -> None:
        """Start or resume the run."""
        self.run = start_pipeline(self.folder, *self.arguments, *more, "-resume")
        self.seen, self.began = len(durable(self.folder)), time.time()

    def is_running(self) -> bool:
        return self.run.poll() is None

    def moment(self) -> Dict[Worker, float]:
        """Wait until a kill would hurt: who would lose how many seconds of work.

        That is when two more batches are durable, every worker in the middle of its chunk has committed something, one of
        them is this run's own (an earlier run's orphans may be about), and half an interval of work is at risk.
        """

        def ripe():
            batches = durable(self.folder)
            risks = at_risk(self.folder, batches) if len(batches) >= self.seen + 2 else {}
            own = any(worker.started > self.began for worker in risks)
            return risks if own and None not in risks.values() and max(risks.values()) >= self.seconds / 2 else None

        risks = wait_for(ripe, PATIENCE, still=self.is_running, told=lambda: TOO_FAST + self.console())
        self.seen = len(durable(self.folder))
        return risks

    def strike(self, what: str) -> None:
        """SIGKILL one worker, Nextflow, or all there is, in mid-work; AssertionError when that hits nothing."""
        risks = self.moment()
        found = living(self.folder)
        if what == HEAD:
            victims, risks = found[NEXTFLOW], {}
        elif what == EVERYTHING:
            victims = found[NEXTFLOW] + found[WRAPPER] + found[WORKER]
        else:
            worker = max(risks, key=risks.get)
            victims, risks = [worker.pid], {worker: risks[worker]}
        hit = {pid for pid in victims if kill(pid)}
        assert hit and {worker.pid for worker in risks} <= hit, f"{what}: a kill that hit nothing"
        orphans = [worker.chunk for worker in embedding_workers(self.folder)] if what == HEAD else []
        self.kills.append(Kill(what, len(hit), time.time(), {worker.chunk: seconds for worker, seconds in risks.items()}, orphans))

    def console(self) -> str:
        return (self.folder / "console.txt").read_text()


def drill(folder: Path, arguments: List[object], seconds: float) -> Drill:
    """Run, kill and resume to the end; `seconds` between checkpoints. AssertionError when a step does not come to its kill."""
    done = Drill(folder, arguments, seconds)
    (folder / "no_retry.config").write_text(NO_RETRY)
    for what in (ONE_WORKER, AGAIN):
        done.start("-c", folder / "no_retry.config")
        done.strike(what)
        assert done.run.wait(PATIENCE) != 0, "the run was to fail with its worker"
    done.start()
    done.strike(IN_RUN)
    wait_for(lambda: "Execution is retried (1)" in done.console(), PATIENCE, still=done.is_running, told=done.console)
    done.strike(HEAD)
    assert done.kills[-1].orphans, "workers were to live on"
    done.run.wait()
    done.start()
    done.strike(EVERYTHING)
    done.run.wait()
    wait_for(lambda: not any(living(folder).values()))
    done.last = run_pipeline(folder, *arguments, "-resume")
    return done
