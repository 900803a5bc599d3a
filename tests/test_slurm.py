"""Real SLURM with two pretended GPUs (.ci/slurm-up): a device for each task, and no way to lose a job changes a vector."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2
from tests.conftest import make_proteins, metrics_of, write_fasta
from tests.nextflow import content, run_pipeline, start_pipeline, wait_for
from tests.phases import PLACES
from tests.test_retries import EXITS, attempts

pytestmark = [pytest.mark.slurm, pytest.mark.nextflow]
PROTEINS = 32
EMBEDDING_ALONE = ["--report", "false", "--verify", 0]
# GPUs are asked for, and the CPU computes: the devices are pretended. Polling is quick, or the tests would wait most of their time.
SITE = """
executor { pollInterval = '1 sec'; queueStatInterval = '1 sec'; exitReadTimeout = '5 sec' }
process {
    resourceLimits = [memory: 2.GB]
    withLabel: process_gpu { accelerator = 1; cpus = 1 }
}
"""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    if not shutil.which("sinfo") or "gpu:2" not in slurm("sinfo", "--noheader", "--format=%G"):
        pytest.skip("no SLURM with two GPUs answers; .ci/slurm-up starts one")


def slurm(*command):
    """What a command of SLURM's prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Arguments for two chunks that keep a job busy for a quarter of a minute each, and commit after every pack."""
    folder = tmp_path_factory.mktemp("slow")
    save_esm2(random_esm2(Shape(layers=12, width=480, heads=20)), folder / "slow.pt")
    write_fasta(folder / "proteins.fasta", make_proteins([600 + 10 * number for number in range(PROTEINS)]))
    given = ["--input", folder / "proteins.fasta", "--model", folder / "slow.pt", "--max_tokens", 1024, "--checkpoint_seconds", 0]
    return [*given, "--chunk_residues", 13000]


@pytest.fixture(scope="module")
def undisturbed(slow, tmp_path_factory):
    """The digest of embeddings.h5 without SLURM, when nothing dies."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "one_thread.config").write_text("process { withLabel: process_gpu { cpus = 1; maxForks = 2; memory = 2.GB } }")
    run_pipeline(folder, *slow, *EMBEDDING_ALONE, "--weights_dir", folder, "-c", "one_thread.config")
    return content(folder)


def on_slurm(folder, *arguments, site=""):
    (folder / "site.config").write_text(SITE + site)
    return [*arguments, "-profile", "slurm", "--gpu_queue", "gpu", "--account", "lab", "--weights_dir", folder / "downloads", "-c", "site.config"]


def launchers(folder, process):
    return [text for text in (path.read_text() for path in folder.glob("work/*/*/.command.run")) if f"#SBATCH -J nf-{process}" in text]


def embedding_job(folder):
    """The id of a job that embeds, once it has left two batches behind."""
    for line in slurm("squeue", "--noheader", "--states=RUNNING", "--format=%i %j %Z").splitlines():
        job, name, place = line.split()
        if "EMBED_CHUNK" in name and Path(place).is_relative_to(folder):
            done = [list(folder.glob(f"work/checkpoints/*/{chunk.stem}/*.done")) for chunk in Path(place).glob("chunk_*.fasta")]
            if done and len(done[0]) >= 2:
                return job
    return None


def test_each_of_two_jobs_at_once_has_a_gpu_of_its_own(tmp_path, slow, undisturbed):
    run_pipeline(tmp_path, *on_slurm(tmp_path, *slow, "--verify", 2))
    assert content(tmp_path) == undisturbed
    embedding = launchers(tmp_path, "EMBED_CHUNK")
    assert len(embedding) >= 2
    assert all(re.search(rf"^#SBATCH .*{wanted}", text, re.MULTILINE) for text in embedding for wanted in ("--gres=gpu:1", "-p gpu", "--account=lab"))
    (split,) = launchers(tmp_path, "SPLIT_FASTA")
    assert "gres" not in split and "#SBATCH -p" not in split and "--account=lab" in split
    assert {chunk["visible_devices"] for chunk in metrics_of(tmp_path / "work")} == {"0", "1"}
    spans = sorted(
        ((folder / ".command.begin").stat().st_mtime, (folder / ".exitcode").stat().st_mtime)
        for folder in (path.parent for path in tmp_path.glob("work/*/*/chunk_*.h5"))
    )
    assert spans[1][0] < spans[0][1], "the second job waited for the first"


def cancel(job):
    slurm("scancel", job)


def kill_step(job):
    """What the kernel does when memory is short: every process of the job is gone at once, and no shell is left to write an exit code."""
    (step,) = subprocess.run(["pgrep", "-f", rf"slurmstepd: \[{job}\.batch"], capture_output=True, text=True).stdout.split()
    pairs = [line.split() for line in subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout.splitlines()]
    doomed = [step]
    for pid in doomed:
        doomed += [child for child, parent in pairs if parent == pid]
    for pid in doomed[1:]:
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("lose", [cancel, kill_step], ids=lambda lose: lose.__name__)
def test_a_lost_job_is_retried_and_its_rows_are_reused(tmp_path, slow, undisturbed, lose):
    run = start_pipeline(tmp_path, *on_slurm(tmp_path, *slow, *EMBEDDING_ALONE))
    lose(wait_for(lambda: embedding_job(tmp_path), still=lambda: run.poll() is None))
    check_the_retried_run(tmp_path, run, undisturbed)


def test_a_job_that_its_time_limit_ends_goes_on_in_the_next(tmp_path, slow, undisturbed):
    """The limit, with the warning that Nextflow asks for, comes to a job that has committed batches and is held before it can end."""
    gate, held = tmp_path / "gate", PLACES["mid-batch"]
    rule = dict(held._asdict(), name="mid-batch", gate=str(gate), hold=True)
    environment = {"PYTHONPATH": str(Path(__file__).parent / "held"), "HELD_AT": json.dumps([rule])}
    run = start_pipeline(tmp_path, *on_slurm(tmp_path, *slow, *EMBEDDING_ALONE, "--chunk_residues", 99999), env=environment)
    job = wait_for(lambda: embedding_job(tmp_path), still=lambda: run.poll() is None)
    slurm("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    wait_for(lambda: "Execution is retried (1)" in (tmp_path / "console.txt").read_text(), still=lambda: run.poll() is None)
    gate.touch()
    check_the_retried_run(tmp_path, run, undisturbed)
    assert "exit status (140)" in (tmp_path / "console.txt").read_text(), "it was ended by something else than SLURM's warning of the limit"


def test_codes_that_only_a_scheduler_or_a_cloud_can_give_are_retried(tmp_path):
    """Written where a cloud's agent writes them; PBS's 271, and Google's for machines taken away, lost or silent, and its time limit."""
    codes = [271, *range(50001, 50007)]
    (tmp_path / "site.config").write_text(SITE)
    given = ["--codes", ",".join(map(str, codes)), "-process.executor", "slurm", "-c", tmp_path / "site.config"]
    run_pipeline(tmp_path, *given, main=EXITS)
    found = {name: [(row["status"], row["exit"], row["time"]) for row in rows] for name, rows in attempts(tmp_path).items()}
    assert found == {f"ENDS_WITH ({code})": [("FAILED", str(code), "12h"), ("COMPLETED", "0", "1d" if code == 50005 else "12h")] for code in codes}


def check_the_retried_run(folder, run, undisturbed):
    assert run.wait(timeout=400) == 0, (folder / "console.txt").read_text()
    assert "Execution is retried (1)" in (folder / "console.txt").read_text()
    metrics = metrics_of(folder / "work")
    assert sum(chunk["reused"] for chunk in metrics) > 0
    assert sum(chunk["reused"] + chunk["computed"] for chunk in metrics) == PROTEINS
    assert content(folder) == undisturbed
