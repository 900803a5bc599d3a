"""What a run leaves in pipeline_info/ to be looked at, or run again, later."""

import json
import re

import pytest

from tests.conftest import ROOT
from tests.nextflow import PARSERS, basic, run_pipeline

pytestmark = pytest.mark.nextflow


@pytest.mark.parametrize("parser", PARSERS)
def test_the_parameters_of_a_run_are_kept_in_a_file_that_makes_the_same_run_again(tmp_path, hostile_pt, parser):
    outdir = ["--outdir", "2026"] if parser == "v1" else []  # under the second one of 25.04 the config has read it before
    run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "--repr_layers=-1,2", "--checkpoint_seconds", 7.5, *outdir, "-stub-run", parser=parser)
    folder = tmp_path / (outdir[1] if outdir else "results") / "pipeline_info"
    (kept,) = folder.glob("params_*.json")
    parameters = json.loads(kept.read_text())
    schema = json.loads((ROOT / "nextflow_schema.json").read_text())
    defaults = {name: rule["default"] for group in schema["$defs"].values() for name, rule in group["properties"].items() if "default" in rule}
    given = dict(input=str(tmp_path / "proteins.fasta"), model=str(hostile_pt), weights_dir=str(tmp_path / "downloads"), chunk_residues=3000)
    given |= dict(report=False, verify=0, repr_layers="-1,2", checkpoint_seconds=7.5, outdir=folder.parent.name)
    assert parameters == {**defaults, **given}
    again = run_pipeline(tmp_path, "-params-file", kept, "-stub-run", "-resume", parser=parser)
    assert not again.submitted() and again.cached()["MERGE_CHUNKS"] == 1
    assert {path.read_text() for path in folder.glob("params_*.json")} == {kept.read_text()}


def test_tasks_are_measured_for_those_who_ask_for_a_trace_or_for_seqera_platform(tmp_path):
    asking = ["-with-trace", "-with-report mine.html", "-with-timeline", "-with-tower", "-with-tower https://platform.example"]
    (tmp_path / "commands.txt").write_text("".join(f"nextflow run main.nf {given}\n" for given in [*asking, "-with-dag", "--report true"]))
    main = ROOT / "tests" / "watched" / "main.nf"
    said = run_pipeline(tmp_path, "--commands", tmp_path / "commands.txt", main=main).output
    assert re.findall(r"^nextflow run main.nf .* -> (\w+)$", said, re.MULTILINE) == ["true"] * len(asking) + ["false"] * 2
