"""Several GPUs on one machine: every task has one of its own. The devices are pretended, the locks are real."""

import contextlib
import itertools
import os
import re
import signal
import time
import uuid
from pathlib import Path

import pytest

from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2
from tests.conftest import ROOT, make_proteins, metrics_of, write_fasta
from tests.nextflow import PARSERS, basic, content, environment, is_worker, processes, run_pipeline, start_pipeline, wait_for, workers

pytestmark = pytest.mark.nextflow
PROTEINS = 14


@pytest.fixture
def devices():
    """Three devices by names that no other test and no machine has."""
    return [f"GPU-{uuid.uuid4()}" for _ in range(3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "slow.pt"
    save_esm2(random_esm2(Shape(12, 256, 4), seed=5), path)
    return path


def several_chunks(folder, model):
    """Arguments of a run of some chunks that take seconds each; the CPU computes what the GPUs are asked for."""
    write_fasta(folder / "proteins.fasta", make_proteins([400 + 10 * number for number in range(PROTEINS)]))
    (folder / "site.config").write_text(f"process {{ beforeScript = 'touch {folder}/prepared.$$'; withLabel: process_gpu {{ cpus = 1; memory = 1.GB }} }}")
    given = ["-profile", "gpu", "--device", "cpu", "--input", folder / "proteins.fasta", "--model", model, "--weights_dir", folder / "downloads"]
    return [*given, "--chunk_residues", 2500, "--max_tokens", 600, "--checkpoint_seconds", 0, "--verify", 0, "-c", "site.config"]


def devices_held(folder):
    """Task folder -> what CUDA_VISIBLE_DEVICES is in its living worker (a child that it has just forked is the same task)."""
    held = {}
    for pid, argv, place in processes(folder):
        if is_worker(argv):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                found = re.search(rb"(?:^|\0)CUDA_VISIBLE_DEVICES=([^\0]*)", Path(f"/proc/{pid}/environ").read_bytes())
                held.update({place: found[1].decode()} if found else {})
    return held


ELSEWHERE = {
    "process.executor = 'slurm'": "no limit",
    "executor.name = 'slurm'": "no limit",
    "process { withLabel: process_gpu { executor = 'slurm' } }": "no limit",
    "process { withName: '.*_CHUNK' { executor = 'slurm' } }": "no limit",
    "process { executor = 'slurm'; withLabel: process_gpu { executor = 'local' } }": "2",
    "process { withLabel: process_gpu { maxForks = 5 } }": "5",
    "process { maxForks = 5 }": "2",
}


@pytest.mark.parametrize("site, parser", list(zip(ELSEWHERE, itertools.cycle(PARSERS))))
def test_the_devices_of_this_machine_limit_only_tasks_that_run_on_it(tmp_path, devices, monkeypatch, site, parser):
    """Whoever sends them elsewhere, in whatever words. The profile is included, for the second parser has none beside -c."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(devices))
    (tmp_path / "site.config").write_text(f"includeConfig '{ROOT}/conf/gpu.config'\n{site}\n")
    run = run_pipeline(tmp_path, "--gpus", 2, "-c", "site.config", parser=parser, main=ROOT / "tests" / "forks" / "main.nf")
    assert f"at once: {ELSEWHERE[site]}\n" in run.output


def test_a_site_that_sends_them_to_its_cluster_has_all_chunks_in_its_queue_at_once(tmp_path, hostile_pt, devices):
    """A pretended one, whose jobs never end."""
    (tmp_path / "bin").mkdir()
    for name, says in {"sbatch": "echo Submitted batch job $$", "squeue": "exit 0", "scancel": "exit 0"}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "site.config").write_text("process { withLabel: process_gpu { executor = 'slurm' } }\n")
    surroundings = {"CUDA_VISIBLE_DEVICES": devices[0], "PATH": f"{tmp_path}/bin:{environment()['PATH']}"}
    run = start_pipeline(tmp_path, "-profile", "gpu", *basic(tmp_path, hostile_pt), "--chunk_residues", 2000, "-c", "site.config", env=surroundings)
    console = tmp_path / "console.txt"
    try:
        wait_for(lambda: console.read_text().count("process > EMBED_CHUNK") >= 5, 60, lambda: run.poll() is None, console.read_text)
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()


def test_tasks_at_once_have_different_devices_and_a_killed_one_frees_its_own(tmp_path, model, devices):
    """Of three devices the user lets the run have the first two."""
    run = start_pipeline(tmp_path, *several_chunks(tmp_path, model), "--gpus", 2, env={"CUDA_VISIBLE_DEVICES": ",".join(devices)})
    most, killed = 0, False
    while run.poll() is None:
        held = devices_held(tmp_path)
        assert len(held) == len(set(held.values())) and set(held.values()) <= set(devices[:2]), held
        most = max(most, len(held))
        time.sleep(0.02)  # the runs want the processors, too
        if len(held) == 2 and not killed and list(tmp_path.glob("work/checkpoints/*/*/*.done")):
            os.kill(workers(tmp_path)[0], signal.SIGKILL)
            killed = True
    console = (tmp_path / "console.txt").read_text()
    assert run.returncode == 0, console
    assert killed and most == 2 and "Execution is retried (1)" in console
    metrics = metrics_of(tmp_path / "work")
    assert {chunk["visible_devices"] for chunk in metrics} == set(devices[:2])
    assert sum(chunk["reused"] + chunk["computed"] for chunk in metrics) == PROTEINS
    assert len(list(tmp_path.glob("prepared.*"))) > len(metrics), "what a site does before each task, to load its engine for one, is done before these, too"


def test_two_runs_on_one_machine_share_its_devices_without_meeting(tmp_path, model, devices):
    runs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        given = several_chunks(tmp_path / name, model)
        runs.append(start_pipeline(tmp_path / name, *given, env={"CUDA_VISIBLE_DEVICES": devices[0]}))
    while any(run.poll() is None for run in runs):
        assert len(devices_held(tmp_path)) <= 1
        time.sleep(0.02)
    assert [run.returncode for run in runs] == [0, 0]
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_an_orphan_keeps_its_device_until_it_ends(tmp_path, model, devices):
    given, env = several_chunks(tmp_path, model), {"CUDA_VISIBLE_DEVICES": devices[0]}
    run = start_pipeline(tmp_path, *given, env=env)
    (orphan,) = wait_for(lambda: workers(tmp_path), still=lambda: run.poll() is None)
    os.kill(orphan, signal.SIGSTOP)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    successor = start_pipeline(tmp_path, *given, "-resume", env=env)
    wait_for(lambda: "EMBED_CHUNK" in (tmp_path / "console.txt").read_text(), still=lambda: successor.poll() is None)
    try:
        for _ in range(30):
            assert workers(tmp_path) == [orphan], "two tasks on one device"
            time.sleep(0.1)
    finally:
        os.kill(orphan, signal.SIGCONT)
    assert successor.wait(timeout=300) == 0
    run_pipeline(tmp_path, *given, "-resume")
