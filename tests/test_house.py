"""Rules that a review forgets."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import BIN, ROOT
from tests.nextflow import environment

PACKAGE = BIN / "protembed"
SCRIPTS = sorted(BIN.glob("*.py"))
# The lowest level may be imported by all others of the package; those import nothing else of it.
LOWEST = {"errors", "atomic", "packing", "identity", "layout", "records", "hdf5", "marker", "sampling", "shapes", "seals", "consistency", "torch_dataset"}
LOWEST |= {
    "meter",
    "ledger",
    "vector_datasets",
    "rounding",
    "checked_rows",
    "checkpoint_folder",
    "custom_content",
    "fasta",
    "proteins",
    "first_seen",
    "choosing",
    "borders",
    "allocation",
    "device",
    "windows",
    "contacts",
    "tokens",
    "projection",
    "attention",
    "underway",
    "batch",
    "pooling",
    "cuda_kernels",
    "pointwise",
}
BELOW = {"pointwise": {"attention", "projection", "cuda_kernels"}}  # what else one of them rests on
USERS_OWN = {"embed_fasta", "export_h5", "show_progress", "check_h5", "software_versions"}  # scripts that are no steps of the pipeline
TORCH_ALLOWED = {"attention", "underway", "batch", "weights", "esm2", "tokens", "projection", "embedding", "checkpoint", "committer"}
TORCH_ALLOWED |= {
    "device",
    "pooling",
    "stitching",
    "contacts",
    "torch_dataset",
    "embed_chunk",
    "fetch_weights",
    "verify_embeddings",
    "cuda_kernels",
    "pointwise",
}


def imports_of(path):
    """Names of the modules that a file imports, protembed's without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {f"protembed.{alias.name}" for alias in node.names} if node.module == "protembed" else {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def ours(path):
    return {name.removeprefix("protembed.") for name in imports_of(path) if name.startswith("protembed.") and name != "protembed.__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_dependencies_go_one_way(path):
    assert ours(path) <= LOWEST | ({"reading"} if path.stem == "__init__" else set())
    if path.stem in LOWEST:
        assert ours(path) <= {"errors", "layout", "tokens", "identity", "seals", "fasta", "records", "hdf5", *BELOW.get(path.stem, ())}


@pytest.mark.parametrize("path", [*PACKAGE.glob("*.py"), *SCRIPTS], ids=lambda path: path.stem)
def test_only_what_computes_imports_torch(path):
    heavy = {name.split(".")[0] for name in imports_of(path) if name} & {"torch", "esm"}
    assert not heavy or path.stem in TORCH_ALLOWED


@pytest.mark.parametrize("script", ["split_fasta", "reuse_embeddings", "merge_chunks", "make_report"])
def test_split_and_merge_run_without_torch_in_reach(script):
    blocked = "import sys; sys.modules['torch'] = None; sys.modules['esm'] = None; import runpy; sys.argv = ['x', '--help']; "
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked} runpy.run_path({str(BIN / script) + '.py'!r}, run_name='__main__')"],
        env={**os.environ, "PYTHONPATH": str(BIN)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path", [*ROOT.glob("bin/**/*.py"), *ROOT.glob("tests/*.py"), *ROOT.glob("modules/**/*.nf"), ROOT / "main.nf"], ids=lambda path: path.name
)
def test_a_file_is_one_idea_and_under_two_hundred_lines(path):
    assert len(path.read_text().splitlines()) < 200


def test_scripts_are_executable_and_nothing_else_is_in_bin():
    assert all(os.access(path, os.X_OK) for path in SCRIPTS)
    tracked = subprocess.run(["git", "ls-files", "bin"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert all(re.fullmatch(r"bin/(protembed/)?\w+\.py|bin/protembed/\w+\.cu", name) and "test_" not in name for name in tracked)


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.stem not in USERS_OWN], ids=lambda path: path.stem)
def test_a_step_has_one_name_in_four_places(script):
    module = ROOT / "modules" / script.stem / "main.nf"
    assert f"process {script.stem.upper()} {{" in module.read_text()
    assert f"{script.stem}.py" in module.read_text()
    assert (ROOT / "tests" / f"test_{script.stem}.py").exists()


def declared():
    groups = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"].values()
    return {name: rule for group in groups for name, rule in group["properties"].items()}


@pytest.mark.nextflow
def test_defaults_of_schema_and_config_are_the_same():
    shown = subprocess.run([ROOT / "tools" / "nextflow", "config", "-flat", ROOT], env=environment(), capture_output=True, text=True, check=True).stdout
    configured = dict(re.findall(r"^params\.(\w+) = (.*)$", shown, re.MULTILINE))
    assert set(configured) == set(declared())
    for name, rule in declared().items():
        default = rule.get("default")
        assert configured[name] == ("null" if default is None else f"'{default}'" if isinstance(default, str) else json.dumps(default)), name


def test_every_parameter_is_described_in_the_schema_and_in_the_docs():
    usage = (ROOT / "docs" / "usage.md").read_text()
    for name, rule in declared().items():
        assert rule["description"]
        assert f"`--{name}`" in usage


def test_every_exit_code_is_in_the_docs():
    from protembed import errors

    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ProtembedError)} - {1}
    assert codes == {65, 66, 67, 68, 69, 75, 78, 137}
    usage = (ROOT / "docs" / "usage.md").read_text()
    assert all(f"| {code} |" in usage for code in codes)


def test_every_test_that_the_page_of_survival_names_exists():
    """The page is written from tests."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "what_survives_what.md").read_text()))
    there = set(re.findall(r"^def (test_\w+)", "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py")), re.MULTILINE))
    assert len(named) > 20 and named <= there, named - there


def test_the_speed_table_in_the_readme_is_that_of_the_results():
    assert subprocess.run([sys.executable, ROOT / "benchmarks" / "table.py", "--check"]).returncode == 0


def test_versions_agree():
    from protembed import __version__

    assert re.search(r"version\s+= '(.*)'", (ROOT / "nextflow.config").read_text())[1] == __version__
