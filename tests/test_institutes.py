"""nf-core's institutional profiles, from a folder like theirs."""

import pytest

from tests.nextflow import basic, run_pipeline
from tests.test_profiles import HEADERS

pytestmark = pytest.mark.nextflow


def institute(folder):
    """A folder like nf-core's configs, with one institute."""
    (folder / "conf").mkdir()
    (folder / "nfcore_custom.config").write_text('profiles { institute { includeConfig "${params.custom_config_base}/conf/institute.config" } }\n')
    described = "config_profile_description = 'Ours'; config_profile_contact = 'us'; config_profile_url = 'https://us.example'; max_cpus = 8; project = null"
    settings = "beforeScript = { \"export PROJECT=${params.project}\" }; withLabel: process_gpu { queue = 'theirs' }"
    (folder / "conf" / "institute.config").write_text(f"params {{ {described} }}\nprocess {{ {settings} }}\n")


def test_google_batch_gets_a_type_of_gpu_and_an_institute_has_the_last_word(tmp_path):
    """With the executor of this machine, for there is no Google Batch here."""
    institute(tmp_path)
    given = ["--gpu_queue", "ours", "--custom_config_base", tmp_path]
    for chosen, machine in ([], "n1-standard-4"), (["--gpu_machine_type", "g2-standard-8"], "g2-standard-8"):
        run = run_pipeline(tmp_path, "-profile", "google_batch,gpu,institute", *given, *chosen, "-process.executor", "local", main=HEADERS)
        assert f"asked: 1 nvidia-tesla-t4 {machine} theirs" in run.output


def test_an_institute_that_speaks_of_gpus_takes_no_resources_away_from_tasks_without_one(tmp_path):
    institute(tmp_path)
    run = run_pipeline(tmp_path, "--custom_config_base", tmp_path, "-profile", "institute", main=HEADERS)
    assert "resources: 2 cpus, 8 GB, 1d" in run.output and "theirs" in run.output


def test_a_run_under_an_institutes_profile_goes_through_with_its_parameters_and_one_of_ours_mistyped_is_still_refused(tmp_path, hostile_pt):
    institute(tmp_path)
    given = [*basic(tmp_path, hostile_pt), "--custom_config_base", tmp_path, "-profile", "institute", "--project", "lab7", "-stub-run"]
    run = run_pipeline(tmp_path, *given)
    assert run.submitted()["MERGE_CHUNKS"] == 1 and "params.max_cpus, which is not a parameter here" in run.output
    assert "WARN: --project is not a parameter of protembed: it is left to the config files" in run.output
    assert "export PROJECT=lab7" in "".join(path.read_text() for path in (tmp_path / "work").glob("*/*/.command.run"))
    refused = run_pipeline(tmp_path, *given, "--max_token", 5, "--toks_per_batch", 5, "--resume", check=False)
    assert refused.code != 0 and not refused.submitted()
    for words in ("--max_token is not a parameter; did you mean --max_tokens?", "--toks_per_batch is not", "did you mean -resume?"):
        assert words in refused.output


def test_a_relative_folder_of_institutional_profiles_is_refused_with_the_reason(tmp_path):
    """Its files would include each other from the wrong place."""
    institute(tmp_path)
    run = run_pipeline(tmp_path, "--custom_config_base", ".", "-profile", "institute", main=HEADERS.parents[2], check=False)
    assert run.code != 0 and "--custom_config_base must be an absolute folder or an address; found '.'" in run.output
