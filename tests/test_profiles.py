"""Every combination of profiles that matters, resolved by real Nextflow, and what schedulers and clouds are then asked for."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import ROOT
from tests.nextflow import environment, run_pipeline

pytestmark = pytest.mark.nextflow
HEADERS = ROOT / "tests" / "headers" / "main.nf"
GPU = "process.'withLabel:process_gpu'."
CLOUDS = {"awsbatch": "awsbatch", "google_batch": "google-batch", "azurebatch": "azurebatch", "k8s": "k8s"}
GRIDS = {"slurm": "slurm", "lsf": "lsf", "pbs": "pbspro", "sge": "sge"}
COMBINED = ["arm64,docker,gpu", "test,podman,gpu", "test_full,venv"]
COMBINED += [f"{engine},gpu,{grid}" for engine, grid in zip(["singularity", "apptainer", "singularity", "apptainer"], GRIDS)]
COMBINED += [f"{cloud},gpu" for cloud in CLOUDS]
SITE = "process { withLabel: process_gpu { containerOptions = '--nv'; clusterOptions = '--reservation=us' } }\n"


def resolved(profiles, parser="v1", site=None):
    """Setting -> value, as `nextflow config -flat` prints them."""
    command = [ROOT / "tools" / "nextflow", *(["-c", site] if site else []), "config", "-flat", "-profile", profiles, ROOT]
    done = subprocess.run(command, env=environment(parser), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(re.findall(r"^(\S+?|\S*'[^']+'\S*) = (.*(?:\n .*)*)$", done.stdout, re.MULTILINE))
    return {name: value for name, value in found.items() if "/pipeline_info/" not in value}  # which have the time in their names


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """All of them, two JVMs at a time; 'site' is a cluster's own config on top, 'turned' the other order under the other parser."""
    site = tmp_path_factory.mktemp("site") / "site.config"
    site.write_text(SITE)
    with ThreadPoolExecutor(2) as pool:
        asked = {profiles: pool.submit(resolved, profiles) for profiles in COMBINED}
        asked["site"] = pool.submit(resolved, "singularity,gpu,slurm", site=site)
        asked["turned"] = pool.submit(resolved, "slurm,gpu,singularity", parser="v2")
        return {profiles: config.result() for profiles, config in asked.items()}


def test_no_profile_takes_away_what_the_base_says_of_resources_retries_and_publishing(configs):
    """The first parser drops the base's settings of a label that a profile speaks of."""
    for profiles, config in configs.items():
        for setting in ("cpus", "memory", "time"):
            assert config[f"process.'withLabel:process_single'.{setting}"] and config[f"process.'withLabel:process_embed'.{setting}"], profiles
        assert re.search(r"130\.\.145.*50001\.\.50006.*75, 104.*2147483647", config["process.errorStrategy"])
        assert config["process.maxRetries"] == "5" and config["process.maxErrors"] == "-1"
        assert any("'deep'" in value for name, value in config.items() if name.startswith("process.'withName:MERGE_CHUNKS'.publishDir"))


@pytest.mark.parametrize("engine", ["docker", "podman", "singularity", "apptainer"])
def test_an_engine_runs_the_two_images_and_lets_the_choice_of_a_device_in(configs, engine):
    for profiles, config in configs.items():
        if engine in profiles.split(","):
            assert config[f"{engine}.enabled"] == "true"
            assert config["process.container"] == "'protembed-tools:0.1.0'"
            assert config["process.'withName:FETCH_WEIGHTS|EMBED_CHUNK|VERIFY_EMBEDDINGS'.container"] == "'protembed-embed:0.1.0'"
            assert {"CUDA_VISIBLE_DEVICES", "https_proxy"} <= set(config[f"{engine}.envWhitelist"].strip("'").split(","))
            assert config["env.HOME"] == "'$PWD'"
    assert configs["arm64,docker,gpu"]["docker.runOptions"] == "'-u $(id -u):$(id -g)'", "the gpu profile has its own place for --gpus"


def test_the_gpu_profile_asks_for_one_gpu_a_task_with_any_engine_scheduler_or_cloud(configs):
    for profiles, config in configs.items():
        assert (GPU + "accelerator" in config) == ("gpu" in profiles or profiles in ("site", "turned"))
        assert config["params.device"] == ("'cuda'" if GPU + "accelerator" in config else "'cpu'")


@pytest.mark.parametrize("profile, executor", [*GRIDS.items(), *CLOUDS.items()])
def test_a_profile_of_a_cluster_or_cloud_sends_all_tasks_there_as_many_as_its_queue_takes(configs, profile, executor):
    (config,) = [config for profiles, config in configs.items() if profile in profiles.split(",")]
    assert config["process.executor"] == f"'{executor}'"
    assert "params.gpu_queue" in config["process.queue"]
    assert not [name for name in config if name.endswith(".maxForks")]
    assert config["process.container"] and ("process.clusterOptions" in config) == (profile in GRIDS)


def test_clouds_repeat_what_a_spot_machine_took_along(configs):
    assert configs["awsbatch,gpu"]["aws.batch.maxSpotAttempts"] == "5"
    assert configs["google_batch,gpu"]["google.batch.maxSpotAttempts"] == "5"


def test_on_kubernetes_weights_are_kept_on_the_claim_because_pods_see_no_home(configs):
    assert configs["k8s,gpu"]["params.weights_dir"] == "'/workspace/protembed-weights'"
    assert configs["awsbatch,gpu"]["params.weights_dir"] == "'~/.cache/protembed'"


def test_a_config_of_a_site_changes_what_it_names_and_nothing_else(configs):
    ours, theirs = configs["singularity,gpu,slurm"], configs["site"]
    changed = {name: value for name, value in theirs.items() if ours.get(name) != value}
    assert changed == {GPU + "containerOptions": "'--nv'", GPU + "clusterOptions": "'--reservation=us'"}


def test_the_order_of_profiles_and_the_parser_change_nothing(configs):
    one, other = configs["singularity,gpu,slurm"], configs["turned"]
    flat = {name for name in one if not name.endswith(".publishDir") and ".publishDir." not in name}  # one closure each, shown in two ways
    assert {name: other[name] for name in flat if name != "params.gpus"} == {name: one[name] for name in flat if name != "params.gpus"}


def test_small_tests_stay_small_and_the_full_one_takes_the_whole_proteome_and_the_real_model(configs):
    assert configs["test,podman,gpu"]["process.resourceLimits"] == "[cpus:2, memory:'6 GB', time:'1h']"
    assert "ecoli_demo" in configs["test,podman,gpu"]["params.input"]
    full = configs["test_full,venv"]
    assert (ROOT / "assets" / "ecoli_proteome.fasta.gz").exists() and "ecoli_proteome.fasta.gz" in full["params.input"]
    assert full["params.model"] == "'esm2_t33_650M_UR50D'"
    assert configs["arm64,docker,gpu"]["process.arch"] == "'linux/arm64'"


ASKED = {
    "lsf": ["#BSUB -gpu num=1:j_exclusive=yes:gmodel=A100", "#BSUB -q gpus", "#BSUB -P lab", "#BSUB -x y", "#BSUB -n 2", "#BSUB -W 24:00"],
    "pbs": ["#PBS -l select=1:ncpus=2:mem=8192mb:ngpus=1 -A lab -x y", "#PBS -q gpus", "#PBS -l walltime=24:00:00"],
    "sge": ["#$ -l gpu=1 -P lab -x y", "#$ -q gpus", "#$ -pe smp 2", "#$ -l h_rt=24:00:00"],
}


ENGINES = {"lsf": ("", ""), "pbs": ("docker", " --gpus all "), "sge": ("podman", " --device nvidia.com/gpu=all ")}


@pytest.mark.parametrize("profile", ASKED)
def test_what_a_scheduler_is_asked_for_stands_in_the_launcher_of_the_task(tmp_path, profile):
    """There is no such scheduler here: the task cannot be submitted, but what would be is written."""
    given = ["--queue", "short", "--gpu_queue", "gpus", "--account", "lab", "--cluster_options", "-x y", "--gpu_type", "A100"]
    profiles = f"gpu,{profile},{ENGINES[profile][0]}".strip(",")
    run = run_pipeline(tmp_path, "-profile", profiles, *given, "-process.errorStrategy", "terminate", main=HEADERS, check=False)
    assert run.code != 0
    (launcher,) = tmp_path.glob("work/*/*/.command.run")
    lines = launcher.read_text().splitlines()
    assert [wanted for wanted in ASKED[profile] if wanted not in lines] == []
    assert sum("select=" in line for line in lines) == (profile == "pbs")
    assert ENGINES[profile][1] in launcher.read_text(), "the engine lets the GPU in"


LARGE = [("v1", "random:esm2_t36_3B_UR50D", 24), ("v1", "esm2_t48_15B_UR50D", 80), ("v2", "/data/esm2_t36_3B_UR50D.pt", 24)]


@pytest.mark.parametrize("parser, model, memory", LARGE)
def test_a_task_with_a_large_model_asks_for_the_memory_that_its_weights_take(tmp_path, parser, model, memory):
    given = ["-profile", "gpu,pbs", "--model", model, "-process.errorStrategy", "terminate"]
    run_pipeline(tmp_path, *given, main=HEADERS, parser=parser, check=False)
    (launcher,) = tmp_path.glob("work/*/*/.command.run")
    assert f":mem={memory * 1024}mb:" in launcher.read_text()


@pytest.mark.parametrize("registry, server", [("lab.azurecr.io", "lab.azurecr.io"), ("lab.azurecr.io/protembed", "lab.azurecr.io")])
def test_images_come_from_the_registry_that_is_named_which_azure_must_know(tmp_path, registry, server):
    given = ["-profile", "azurebatch,gpu", "--container_registry", registry, "-process.executor", "local"]
    assert f"from: {registry}/protembed-embed:0.1.0 {server}" in run_pipeline(tmp_path, *given, main=HEADERS).output


@pytest.mark.parametrize("memory, cpus", [("999.GB", 8), ("1.MB", 2)])
def test_a_task_gets_the_cores_that_would_idle_where_memory_is_for_one_task_only(tmp_path, monkeypatch, memory, cpus):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:ActiveProcessorCount=8")
    (tmp_path / "site.config").write_text(f"process {{ withLabel: process_embed {{ memory = {memory} }} }}\n")
    run = run_pipeline(tmp_path, "-c", "site.config", main=HEADERS)
    assert f"resources: {cpus} cpus" in run.output


def test_without_being_asked_no_institutional_config_is_looked_for(configs):
    assert configs["test_full,venv"]["params.custom_config_base"] == "null"
