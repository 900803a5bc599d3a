"""Every script in benchmarks/ runs to its end on a small input and writes its JSON: speed is not judged, only that it can be measured.

scale.py does so in test_scale.py.
"""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, draw_lengths, make_proteins, write_fasta
from tests.nextflow import environment

SMALL = {
    "checkpointing": ["--seconds", 1, "--rounds", 1, "--intervals", "0", "--include", "mean+per_tok"],
    "embed": ["--models", "8M", "--seconds", 0.1, "--lengths", "50"],
    "host": ["--inputs", "50:200", "--width", 64],
    "loading": ["--models", "8M", "--rounds", 1, "--from-memory"],
    "pipeline": ["--inputs", "50:20", "--models", "8M"],
    "storing": ["--rows", 500, "--width", 64, "--single", 20],
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.nextflow] * (name == "pipeline")) for name in sorted(SMALL)])
def test_a_benchmark_measures_and_writes_what_it_found(name, tmp_path):
    options = list(SMALL[name])
    if name in ("checkpointing", "embed", "host"):
        options += ["--fasta", write_fasta(tmp_path / "some.fasta", make_proteins(draw_lengths(40, 60, 200)))]
    if name != "embed":
        options += ["--folder", tmp_path]
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", *options, "--out", tmp_path / "out.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["benchmark"] == name and found["cells"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", *(["some.fasta"] if "--fasta" in options else [])]
