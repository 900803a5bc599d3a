"""What a run says when it fails or cannot begin, and how it is coloured; test_resume.py has what it says when all goes well."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.conftest import write_fasta
from tests.nextflow import basic, command, environment, run_pipeline
from tests.terminal import on_a_terminal

pytestmark = pytest.mark.nextflow
NO_PACKAGES = "say where the software comes from: -profile docker, podman, singularity or apptainer (images), or -profile venv after `make setup`"


def test_a_failed_run_says_why_and_the_command_that_goes_on(tmp_path, hostile_pt):
    arguments = basic(tmp_path, hostile_pt)
    write_fasta(tmp_path / "proteins.fasta", ["MKV", "MKJ"])
    failed = run_pipeline(tmp_path, *arguments, "--outdir", "my results", check=False)
    words = failed.output[failed.output.index("protembed stopped in SPLIT_FASTA (proteins.fasta): the input cannot be used as it is; mend it") :].splitlines()
    assert "proteins.fasta:3 protein1 has letters outside the alphabet: J; see --invalid_residues" in words[2]
    assert words[-1].endswith("--outdir 'my results' -resume")
    write_fasta(tmp_path / "proteins.fasta", ["MKV", "MKK"])
    _, *rest = shlex.split(words[-1])
    done = subprocess.run([command()[0], *rest], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and "2 of 2 records embedded" in done.stdout
    assert (tmp_path / "my results" / "embeddings.h5").exists()


@pytest.fixture
def bare_python(tmp_path, monkeypatch):
    """A python3 in front of all others that has no packages."""
    (tmp_path / "bare").mkdir()
    python = tmp_path / "bare" / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return {**environment(), "PATH": f"{python.parent}:{os.environ['PATH']}"}


def test_without_a_profile_that_brings_the_software_one_line_names_the_profiles(tmp_path, hostile_pt, bare_python):
    done = subprocess.run(command(*basic(tmp_path, hostile_pt)), cwd=tmp_path, env=bare_python, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"Python lacks argparse_dataclass, Bio, h5py, numpy, xxhash, zstandard, torch, esm where the tasks run: {NO_PACKAGES}" in done.stdout
    assert "Traceback" not in done.stdout and "Submitted process" not in done.stdout


def test_where_that_cannot_be_known_before_the_failed_task_says_it(tmp_path, hostile_pt, bare_python):
    (tmp_path / "site.config").write_text("process.beforeScript = 'true'\n")
    done = subprocess.run(command(*basic(tmp_path, hostile_pt), "-c", "site.config"), cwd=tmp_path, env=bare_python, capture_output=True, text=True)
    assert done.returncode != 0 and NO_PACKAGES in done.stdout


@pytest.mark.parametrize("no_color, coloured", [(None, True), ("1", False)])
def test_colours_are_for_terminals_and_for_those_who_want_them(tmp_path, no_color, coloured):
    surroundings = {**environment(), "TERM": "xterm", **({"NO_COLOR": no_color} if no_color else {})}
    code, said = on_a_terminal(command("--help"), cwd=tmp_path, env=surroundings)
    assert code == 0 and "--max_tokens" in said
    assert ("\x1b[1m" in said) == coloured
