"""What a run says at its start, while it works, at its end, and when it fails."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.conftest import make_proteins, write_fasta
from tests.nextflow import basic, command, environment, run_pipeline
from tests.terminal import on_a_terminal

pytestmark = pytest.mark.nextflow
NO_PACKAGES = "say where the software comes from: -profile docker, podman, singularity or apptainer (images), or -profile venv after `make setup`"


def labels(run):
    """The number of chunks that the tasks' tags speak of -> [(number of the chunk, sequences)]."""
    found = re.findall(r"process > EMBED_CHUNK \(chunk (\d+) of (\d+), (\d+) sequences, [\d.]+[kM]? residues\)", run.output)
    return {of: sorted((int(number), int(count)) for number, total, count in found if total == of) for _, of, _ in found}


def test_a_run_says_what_it_has_to_do_and_tags_count_without_being_part_of_what_is_cached(tmp_path, hostile_pt):
    arguments = basic(tmp_path, hostile_pt)
    first = run_pipeline(tmp_path, *arguments, parser="v2")
    ((of, tags),) = labels(first).items()
    assert "input    60 records, 60 different sequences of " in first.output and "0 repeat another, 0 are skipped" in first.output
    assert re.search(rf"chunks   {of}, of \d+ to \d+ sequences", first.output)
    assert "layers -1, mean, float32 on cpu" in first.output and "-resume was not given" in first.output
    assert [number for number, _ in tags] == list(range(1, int(of) + 1)) and sum(count for _, count in tags) == 60
    with open(tmp_path / "proteins.fasta", "a") as fasta:
        fasta.writelines(f">more{number}\n{sequence}\n" for number, sequence in enumerate(make_proteins([150] * 40, seed=5)))
    again = run_pipeline(tmp_path, *arguments, "-resume", parser="v2")
    ((more, tags),) = labels(again).items()
    assert int(more) > int(of) and len(tags) == int(more) and sum(count for _, count in tags) == 100
    assert again.cached()["EMBED_CHUNK"] >= int(of) - 1  # another total in their tags, and yet from the cache
    assert "chunks that earlier runs have finished are taken from the cache" in again.output
    assert re.search(r"100 sequences computed, 0 from checkpoints, of them \d\d in finished chunks of earlier runs; \d+ tokens/s per task", again.output)


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


def test_in_the_c_locale_nextflow_writes_its_report_without_a_warning(tmp_path, hostile_pt, monkeypatch):
    for name in ("LC_ALL", "LC_CTYPE", "LANG", "JAVA_TOOL_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    said = run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "-stub-run").output
    assert "WARN" not in said and "Unmappable" not in said
    assert list((tmp_path / "results").rglob("execution_report_*.html"))
