"""What nf-core's users expect beside the code: a description of each module, and pages that name what is there."""

import csv
import json
import re
import subprocess

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT
from tests.nextflow import run_pipeline

MODULES = sorted(path.parent for path in (ROOT / "modules").glob("*/main.nf") if re.search(r"^process ", path.read_text(), re.MULTILINE))
HOOKS = [hook for source in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] for hook in source["hooks"]]
KINDS = {"map", "file", "directory", "string", "integer", "float", "boolean", "list"}


def block(module, name):
    """The lines of a section of a process."""
    return re.search(rf"{name}:\n(.*?)\n\n", (module / "main.nf").read_text(), re.DOTALL)[1].splitlines()


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_module_is_described_input_by_input_and_output_by_output(module):
    meta = yaml.safe_load((module / "meta.yml").read_text())
    assert meta["name"] == module.name and meta["description"] and meta["authors"]
    assert len(set(meta["keywords"])) >= 3
    assert all(tool["description"] and tool["homepage"] and tool["licence"] for entry in meta["tools"] for tool in entry.values())
    inputs = [re.match(r"\s*(?:path|val)\s+(\w+)", line)[1] for line in block(module, "input")]
    assert [name for entry in meta["input"] for name in entry] == inputs
    outputs = dict(re.search(r"(?:path|env) [\"'](.*?)[\"'], emit: (\w+)", line).group(2, 1) for line in block(module, "output"))
    assert {name: next(iter(entries[0])) for name, entries in meta["output"].items()} == outputs
    elements = [*meta["input"], *(entry for entries in meta["output"].values() for entry in entries)]
    assert all(element["type"] in KINDS and element["description"] for entry in elements for element in entry.values())


@pytest.mark.nextflow
def test_nextflows_own_linter_finds_nothing():
    done = subprocess.run([ROOT / "tools" / "nextflow", "lint", "main.nf", "nextflow.config", "conf", "modules"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "files had no errors" in done.stdout, done.stdout + done.stderr


def test_every_module_has_a_stub():
    assert len(MODULES) >= 7
    assert all("stub:" in (module / "main.nf").read_text() for module in MODULES)


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_what_a_commit_must_pass_passes(hook):
    """CI has no pre-commit: its hooks are run here, over all files."""
    if not (ROOT / ".venv").exists():
        pytest.skip("make setup has not been run here")
    command = [*hook["entry"].split(), *(["."] if hook.get("pass_filenames", True) else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert hook["entry"] in (ROOT / "Makefile").read_text()  # make lint


def test_the_picture_of_the_pipeline_shows_every_step():
    source = json.loads((ROOT / "docs" / "images" / "pipeline.json").read_text())
    assert {stop["name"] for stop in source["stops"] if stop["name"].isupper()} == {module.name.upper() for module in MODULES} - {
        "PLAN_RUN"
    }  # a run has no plan


@pytest.mark.nextflow
def test_the_example_of_a_samplesheet_is_read_and_has_the_form_that_the_schema_describes(tmp_path):
    """And a name of a sample that one refuses, the other does."""
    sheet, schema = ROOT / "assets" / "samplesheet.csv", json.loads((ROOT / "assets" / "schema_input.json").read_text())
    parameter = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"]["input_output_options"]["properties"]["input"]
    assert parameter["mimetype"] == "text/csv" and ROOT / parameter["schema"] == ROOT / "assets" / "schema_input.json"
    form = jsonschema.Draft202012Validator(schema)
    rows = list(csv.DictReader(sheet.open()))
    form.validate(rows)
    names = ["liver", "liver 2", "a,b", 'a"b', "a'b", "a$b", "a`b", "a\\b", "l-1.2_x"]
    for number, name in enumerate(names):
        (tmp_path / f"{number}.tsv").write_text("sample\tfasta\n" + "\t".join([f'"{name.replace(chr(34), 2 * chr(34))}"', str(sheet)]) + "\n")
    (tmp_path / "names.yml").write_text(json.dumps(dict(names="\n".join(f"input={path}" for path in [sheet, *sorted(tmp_path.glob("*.tsv"))]))))
    run = run_pipeline(tmp_path, "-params-file", "names.yml", main=ROOT / "tests" / "named" / "main.nf")
    first, *others = re.findall(r"^input=\S+ -> (.*)$", run.output, re.MULTILINE)
    assert first == f"[[fasta:{sheet.parent / rows[0]['fasta']}, sample:{rows[0]['sample']}]]"
    assert [answer.startswith("refused") for answer in others] == [not form.is_valid([dict(sample=name, fasta="a.fasta")]) for name in names]
