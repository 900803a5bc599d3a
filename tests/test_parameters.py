"""What a user types, and what comes back before anything is run."""

import json
import re

import pytest

from tests.conftest import ROOT
from tests.nextflow import PARSERS, basic, run_pipeline

SCHEMA = json.loads((ROOT / "nextflow_schema.json").read_text())
GROUPS = SCHEMA["$defs"]
both_parsers = pytest.mark.parametrize("parser", PARSERS)

# What was typed -> what is said of it: a wrong name, one of another program's, two spellings, Nextflow's own with two dashes, and
# for each kind of value a wrong one, one out of range, and none.
WRONG = {
    ("--max_token", "5"): "--max_token is not a parameter; did you mean --max_tokens?",
    ("--toks_per_batch", "5"): "--toks_per_batch is not a parameter; did you mean --max_tokens?",
    ("--checkpoint-dir", "x"): "--checkpoint-dir is not a parameter; did you mean --checkpoint_dir?",
    ("--storeDtype", "float16"): "--storeDtype is not a parameter; did you mean --store_dtype?",
    ("--resume",): "--resume is not a parameter; did you mean -resume? Nextflow's own options have one dash",
    ("--chunk_residues", "ten"): "--chunk_residues must be a whole number, found 'ten'",
    ("--verify", "2.5"): "--verify must be a whole number, found '2.5'",
    ("--max_tokens", "0"): "--max_tokens must be at least 16, found 0",
    ("--max_residues", "99999999999"): "--max_residues must be at most 2147483647, found 99999999999",
    ("--checkpoint_seconds", "soon"): "--checkpoint_seconds must be a number, found 'soon'",
    ("--dtype", "float23"): "--dtype must be one of auto, float32, float16, bfloat16; found 'float23', did you mean float32?",
    ("--include", "mean,tokens"): "--include has the value 'mean,tokens'",
    ("--keep_checkpoints", "yes"): "--keep_checkpoints must be true or false, found 'yes'",
    ("--gpus",): "--gpus needs a value: ",
    ("--account", ""): "--account needs a value: ",
}


@pytest.mark.nextflow
@both_parsers
def test_wrong_parameters_stop_the_run_before_any_task_one_line_each(tmp_path, hostile_pt, parser):
    run = run_pipeline(tmp_path, "--model", hostile_pt, *sum(WRONG, ()), parser=parser, check=False)
    assert run.code != 0
    for line in [*WRONG.values(), "--input is required"]:
        assert run.output.count(line) == 1, line
    assert not run.submitted() and not (tmp_path / "work" / "checkpoints").exists()


@pytest.mark.nextflow
@both_parsers
def test_help_lists_every_parameter_in_its_group_with_its_default_and_runs_nothing(tmp_path, parser):
    run = run_pipeline(tmp_path, "--help", parser=parser)
    page = [*map(run.output.find, (f"{group['title']}. {group['description']}" for group in GROUPS.values())), len(run.output)]
    assert page == sorted(page) and page[0] > 0
    for group, start, end in zip(GROUPS.values(), page, page[1:]):
        for name, rule in group["properties"].items():
            section = " ".join(run.output[start:end].split())
            assert f" --{name} {rule['description']}" in section
            assert "default" not in rule or f"[{json.dumps(rule['default'])}]".replace('"', "") in section
    assert "\x1b" not in run.output  # no colours but on a terminal
    assert not (tmp_path / "work" / "checkpoints").exists() and "input is required" not in run.output


@pytest.mark.nextflow
def test_help_of_one_parameter_says_all_of_it_and_of_a_wrong_one_the_nearest(tmp_path):
    said = run_pipeline(tmp_path, "--help", "max_tokens").output
    rule = GROUPS["running"]["properties"]["max_tokens"]
    assert "--max_tokens  (Running; whole number; at least 16)" in said
    assert rule["description"] in " ".join(said.split()) and rule["help_text"] in " ".join(said.split())
    assert "--dtype" not in said
    assert "did you mean --duplicate_ids?" in run_pipeline(tmp_path, "--help", "duplicated_id", parser="v2").output


@pytest.mark.nextflow
def test_the_version_is_the_manifests(tmp_path):
    from protembed import __version__

    assert f"protembed {__version__}, Nextflow 2" in run_pipeline(tmp_path, "--version").output


@pytest.mark.nextflow
@pytest.mark.parametrize("form, parser", list(zip(["yml", "json"], PARSERS)))
def test_a_file_of_parameters_reaches_the_tasks_with_its_types(tmp_path, hostile_pt, form, parser):
    given = dict(checkpoint_seconds=7, keep_checkpoints=True, repr_layers=2, dtype="bfloat16", verify=3)
    text = json.dumps(given) if form == "json" else "".join(f"{name}: {str(value).lower()}\n" for name, value in given.items())
    (tmp_path / f"params.{form}").write_text(text)
    run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "-params-file", f"params.{form}", "-stub-run", parser=parser)
    launchers = "".join(path.read_text() for path in (tmp_path / "work").glob("*/*/.command.run"))
    assert 'PROTEMBED_CHECKPOINT_SECONDS="7"' in launchers and 'PROTEMBED_KEEP_CHECKPOINTS="true"' in launchers


@pytest.mark.nextflow
@both_parsers
def test_a_folder_of_results_may_be_called_by_a_number(tmp_path, hostile_pt, parser):
    """Which is one to Nextflow, too, and no path."""
    run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "--report", "true", "--outdir", "2026", "-stub-run", parser=parser)
    assert all((tmp_path / "2026" / name).exists() for name in ("embeddings.h5", "ledger.tsv", "report.html"))


@pytest.mark.nextflow
def test_faults_in_a_file_of_parameters_are_named_as_on_the_command_line(tmp_path):
    (tmp_path / "params.yml").write_text("input: [a.fasta, b.fasta]\nmaxTokens: 5\nverify: many\nkeep_checkpoints: 1\n")
    run = run_pipeline(tmp_path, "-params-file", "params.yml", check=False)
    assert run.code != 0 and not run.submitted()
    assert "--input must be one value, found [a.fasta, b.fasta]; write a list as text with commas" in run.output
    assert "--maxTokens is not a parameter; did you mean --max_tokens?" in run.output
    assert "--verify must be a whole number, found 'many'" in run.output
    assert "--keep_checkpoints must be true or false, found '1'" in run.output


@pytest.mark.nextflow
@both_parsers
def test_null_in_a_file_of_parameters_is_refused_where_there_is_a_default_and_nothing_said_where_there_is_none(tmp_path, parser):
    (tmp_path / "params.yml").write_text("outdir: null\nrepr_layers: ~\ncheckpoint_seconds:\nmax_tokens: null\nreuse: ~\n")
    run = run_pipeline(tmp_path, "-params-file", "params.yml", parser=parser, check=False)
    assert run.code != 0 and not run.submitted()
    for name, default in {"outdir": "results", "repr_layers": "-1", "checkpoint_seconds": "30"}.items():
        assert f"--{name} is null; give a value, or leave it away for its default, {default}" in run.output
    assert "max_tokens" not in run.output and "reuse" not in run.output


@pytest.mark.nextflow
@both_parsers
def test_an_unknown_parameter_of_a_config_is_warned_of_and_one_that_was_typed_is_refused(tmp_path, hostile_pt, parser):
    """A config may be an institute's for all its pipelines; it describes itself by parameters of nf-core's."""
    (tmp_path / "site.config").write_text("params { config_profile_contact = 'us'; custom_config_version = 'master'; max_memory = '64.GB'; max_token = 5 }\n")
    run = run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "-c", "site.config", "-stub-run", parser=parser)
    assert "WARN: a config file sets params.max_memory, which is not a parameter here and changes nothing\n" in run.output
    assert "WARN: a config file sets params.max_token, which is not a parameter here and changes nothing; did it mean max_tokens?" in run.output
    assert "config_profile" not in run.output and "custom_config" not in run.output
    (tmp_path / "file of mine.yml").write_text("repr_layer: 5\n")
    given = ["--report=false", "--max_token=5", "-params-file", "file of mine.yml", "-c", "site.config", "-stub-run"]
    refused = run_pipeline(tmp_path, *given, parser=parser, check=False)
    assert refused.code != 0 and "--max_token is not a parameter; did you mean --max_tokens?" in refused.output
    assert "--repr_layer is not a parameter; did you mean --repr_layers?" in refused.output and "--max_memory" not in refused.output


@pytest.mark.nextflow
def test_a_typed_parameter_that_a_config_reads_is_left_to_it(tmp_path, hostile_pt):
    """Those of an institute: tests/test_profiles.py."""
    (tmp_path / "site.config").write_text('params.project = null\nprocess.beforeScript = { "export PROJECT=${params.project}" }\n')
    given = [*basic(tmp_path, hostile_pt), "--project", "lab7", "-stub-run"]
    run = run_pipeline(tmp_path, *given, "-c", "site.config")
    assert "WARN: --project is not a parameter of protembed: it is left to the config files" in run.output
    assert "export PROJECT=lab7" in "".join(path.read_text() for path in (tmp_path / "work").glob("*/*/.command.run"))
    refused = run_pipeline(tmp_path, *given, check=False)
    assert refused.code != 0 and "--project is not a parameter; did you mean" in refused.output and not refused.submitted()


@pytest.mark.nextflow
def test_a_parameter_that_comes_too_late_for_the_settings_made_of_it_is_warned_of(tmp_path, hostile_pt):
    """A config given by -c does, and under the second parser of 25.04 the command line. Where it is in time nothing is said."""
    (tmp_path / "late.config").write_text("params { publish_dir_mode = 'link'; image_dir = '/sif' }\n")
    given = [*basic(tmp_path, hostile_pt), "-stub-run", "--outdir", "mine"]
    late = run_pipeline(tmp_path, *given, "-c", "late.config").output
    assert "--publish_dir_mode is link, but process.withName:MERGE_CHUNKS.publishDir.mode was set before that and stays copy: give" in late
    assert late.count("was set before that") == 1, "no engine is asked for that would look into image_dir"
    assert "was set before that" not in run_pipeline(tmp_path, *given, "--publish_dir_mode", "link").output


def test_the_schema_has_the_form_that_nf_core_and_launchers_read():
    """What `nf-core pipelines schema lint` (3.5.2, 4.2.1) checks and can be checked without it; docs/development.md has its outcome."""
    manifest = (ROOT / "nextflow.config").read_text()
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    name = re.search(r"name\s+= '(.*?)'", manifest)[1]
    assert SCHEMA["$id"] == f"https://raw.githubusercontent.com/{name}/main/nextflow_schema.json"
    assert SCHEMA["title"] == f"{name} pipeline parameters"
    assert f"description     = '{SCHEMA['description']}'" in manifest
    assert [part["$ref"] for part in SCHEMA["allOf"]] == [f"#/$defs/{name}" for name in GROUPS]
    assert "input" in GROUPS["input_output_options"]["required"]
    names = [name for group in GROUPS.values() for name in group["properties"]]
    assert len(names) == len(set(names))
    for group in GROUPS.values():
        assert group["type"] == "object" and group["title"] and group["description"] and group["fa_icon"].startswith("fas fa-")
        for name, rule in group["properties"].items():
            assert rule["fa_icon"].startswith("fas fa-") and rule["description"].endswith("."), name
            assert "enum" not in rule or "default" not in rule or rule["default"] in rule["enum"], name
