"""What a run says when the software of its tasks is not where it should be: before the first task where that can be known."""

import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT
from tests.nextflow import basic, run_pipeline

pytestmark = pytest.mark.nextflow
LACKS = ROOT / "tests" / "lacks" / "main.nf"
GONE = "process { container = 'protembed-tools:gone'; withName: MULTIQC { container = 'protembed-report:gone' } }\n"
FILES = [f"protembed-{image}-0.1.0.img" for image in ("tools", "embed", "report")]
both_engines = pytest.mark.parametrize("engine", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("docker", "podman")])


@both_engines
def test_images_that_this_machine_does_not_have_are_named_before_the_first_task(tmp_path, hostile_pt, engine):
    if not shutil.which(engine) or subprocess.run([engine, "info"], capture_output=True).returncode:
        pytest.skip(f"no {engine} answers")
    (tmp_path / "gone.config").write_text(GONE)
    given = [*basic(tmp_path, hostile_pt), "-profile", engine, "-c", "gone.config"]
    without_report = run_pipeline(tmp_path, *given, check=False)
    assert without_report.code != 0 and f"{engine} has no image protembed-tools:gone here: " in without_report.output
    with_report = run_pipeline(tmp_path, *given, "--report", "true", check=False)
    assert f"{engine} has no image protembed-tools:gone, protembed-report:gone here: " in with_report.output
    assert "make them once: `make images`" in with_report.output and "--container_registry" in with_report.output
    assert not with_report.submitted() and not (tmp_path / "work" / "checkpoints").exists()


def test_files_of_images_that_are_not_in_the_folder_are_named_before_anything_is_pulled(tmp_path, hostile_pt, monkeypatch):
    """On a cluster, too: Nextflow itself looks for them, here."""
    given = [*basic(tmp_path, hostile_pt), "-profile", "apptainer,slurm", "--report", "true"]
    monkeypatch.delenv("NXF_APPTAINER_CACHEDIR", raising=False)
    without = run_pipeline(tmp_path, *given, check=False)
    assert without.code != 0 and f"no --image_dir was given that has {', '.join(FILES)}: " in without.output and "containers/make_sif.sh" in without.output
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / FILES[0]).touch()
    (tmp_path / "cached").mkdir()
    (tmp_path / "cached" / FILES[2]).touch()
    monkeypatch.setenv("NXF_APPTAINER_CACHEDIR", str(tmp_path / "cached"))
    partly = run_pipeline(tmp_path, *given, "--image_dir", "images", check=False)
    assert partly.code != 0 and f"--image_dir images has no {FILES[1]}: " in partly.output
    assert not without.submitted() and not partly.submitted()


@pytest.mark.skipif(bool(shutil.which("singularity")), reason="singularity is here")
def test_an_engine_that_is_not_on_path_is_named_before_the_first_task_and_where_something_may_bring_it_afterwards(tmp_path, hostile_pt):
    (tmp_path / "images").mkdir()
    for name in FILES:
        (tmp_path / "images" / name).touch()
    (tmp_path / "site.config").write_text("process.beforeScript = 'true'\n")
    given = [*basic(tmp_path, hostile_pt), "-profile", "singularity", "--image_dir", "images"]
    before = run_pipeline(tmp_path, *given, check=False)
    assert before.code != 0 and "singularity is not on PATH; install it, load its module, or take another profile" in before.output and not before.submitted()
    after = run_pipeline(tmp_path, *given, "-c", "site.config", check=False)
    words = after.output[after.output.index("protembed stopped in ") :].splitlines()
    assert (
        words[1] == "  singularity is not on PATH where the tasks run; where a module brings it, say so in a config given by -c: process.module = 'singularity'"
    )
    assert "singularity’: No such file or directory" in words[2] and "Python" not in "".join(words)


# Name of the engine, exit status, where it ran -> what the task's report said; what is made of it.
REPORTS = {
    "docker.125.denied": (
        "docker: Error response from daemon: pull access denied for protembed-tools, repository does not exist",
        "docker could not get the image: ",
    ),
    "docker.125.tag": ("manifest for registry.example/protembed-tools:0.1.0 not found: manifest unknown", "docker could not get the image: "),
    "docker.125.offline": (
        "Unable to find image 'protembed-tools:0.1.0' locally\ndocker: Error response from daemon: dial tcp: no such host",
        "docker could not get the image: ",
    ),
    "docker.1.pulled": ("Unable to find image 'protembed-tools:0.1.0' locally\nStatus: Downloaded newer image\nTraceback", ""),
    "podman.125.short": ('Error: short-name "protembed-tools:0.1.0" did not resolve to an alias', "podman could not get the image: "),
    "podman.125.denied": ("Error: unable to copy from source docker://protembed-tools:0.1.0: initializing source", "podman could not get the image: "),
    "singularity.1.pull": ("Failed to pull singularity image", "singularity could not get the image: "),
    "docker.1.cloud": ("CannotPullContainerError: pull image manifest has been retried", "docker could not get the image: "),
    "apptainer.127.absent": (".command.run: line 200: apptainer: command not found", "apptainer is not on PATH where the tasks run; "),
    "docker.127.other": (".command.sh: line 2: ps: command not found", "ps is not on PATH where the tasks run, or not in their image"),
    "docker.127.python": ("/usr/bin/env: 'python3': No such file or directory", "the image has no python3: it is not the one that containers/ builds"),
    "docker.1.package": ("ModuleNotFoundError: No module named 'h5py'", "the image has no Python package h5py: "),
    "none.127.python": ("/usr/bin/env: ‘python3’: No such file or directory", "Python lacks python3 where the tasks run: "),
    "none.127.silent": ("Command exit status: 127", "Python lacks python3 where the tasks run: "),
    "none.65.input": ("split_fasta.py: a.fasta: No such file or directory", ""),
}
ON_AWS = {
    "docker.127.silent": ("Command exit status: 127", "the machines of the queue have no aws command where --aws_cli_path says; "),
    "docker.127.named": (
        "bash: line 1: /opt/aws/bin/aws: No such file or directory",
        "the machines of the queue have no aws command where --aws_cli_path says; ",
    ),
}


@pytest.mark.parametrize("reports, executor", [(REPORTS, "local"), (ON_AWS, "awsbatch")], ids=["local", "awsbatch"])
def test_what_a_task_lacked_is_told_from_what_its_engine_shell_or_cloud_reported(tmp_path, reports, executor):
    """Words of engines and clouds that are not here; what is here has real runs above."""
    (tmp_path / "reports").mkdir()
    for name, (said, _) in reports.items():
        (tmp_path / "reports" / name).write_text(said + "\n")
    run = run_pipeline(tmp_path, "--reports", tmp_path / "reports", "-process.executor", executor, main=LACKS)
    told = dict(re.findall(r"^(\S+) -> (.*)$", run.output, re.MULTILINE))
    assert list(told) == sorted(reports)
    assert [name for name, (_, words) in reports.items() if not (told[name].startswith(words) if words else told[name] == "")] == [], told


def test_a_task_without_words_of_ours_is_quoted_by_its_last_line(tmp_path, hostile_pt, monkeypatch):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "python3").write_text("#!/bin/sh\necho first >&2\necho 'this python is out of order' >&2\nexit 3\n")
    (tmp_path / "odd" / "python3").chmod(0o755)
    (tmp_path / "site.config").write_text(f"process.beforeScript = 'export PATH={tmp_path}/odd:$PATH'\n")
    run = run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "-c", "site.config", check=False)
    words = run.output[run.output.index("protembed stopped in ") :].splitlines()
    assert words[1] == "  this python is out of order" and words[2].startswith("What was finished is kept.")
