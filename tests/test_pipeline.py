import gzip
import json
import re

import h5py
import numpy as np
import pytest
import torch

from protembed.chunk_file import open_chunk_file
from protembed.proteins import digest_of, read_fasta
from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2
from tests.conftest import DEMO_FASTA, FP32_BOUND, ROOT, make_proteins, metrics_of, reference_layers, relative_l2, write_fasta
from tests.nextflow import PARSERS, basic, run_pipeline

pytestmark = pytest.mark.nextflow


def test_the_whole_e_coli_proteome_comes_out_in_order_with_fair_esms_values(tmp_path, hostile_esm2, hostile_pt):
    proteome = ROOT / "assets" / "ecoli_proteome.fasta.gz"
    given = ["--input", proteome, "--model", hostile_pt, "--weights_dir", tmp_path, "--chunk_residues", 800000, "--report", "false"]
    assert "RANDOM WEIGHTS" not in run_pipeline(tmp_path, *given).output
    records = list(read_fasta(proteome))
    with h5py.File(tmp_path / "results" / "embeddings.h5") as file:
        assert list(file["sequence_ids"].asstr()) == [record.id for record in records]
        assert np.array_equal(file["sha256"][:], np.array([list(digest_of(record.sequence)) for record in records], np.uint8))
        assert file.attrs["random_weights"] == 0
        vectors = file["embeddings"][:]
        assert (file["flags"][:] & 1).sum() == sum(len(record.sequence) > 1022 for record in records) == 54
    assert np.isfinite(vectors).all()
    for row in range(0, len(records), 87):
        reference = reference_layers(hostile_esm2, records[row].sequence[:1022], [3])[3][1:-1]
        assert relative_l2(vectors[row][None], reference.double().mean(0)[None]) <= FP32_BOUND
    by_sequence = {}
    for row, record in enumerate(records):
        first = by_sequence.setdefault(record.sequence, row)
        assert np.array_equal(vectors[row], vectors[first])


def test_bad_input_stops_before_any_embedding_with_its_lines_on_the_console(tmp_path, hostile_pt):
    (tmp_path / "proteins.fasta").write_text(">a\nMKJ\n>b\nMK\n>b\nMV\n>c\nMKVLA\n")
    run = run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "--long_sequences", "error", "--max_residues", 4, parser="v2", check=False)
    assert run.code != 0
    assert "proteins.fasta:1 a has letters outside the alphabet: J" in run.output
    assert "proteins.fasta:5 b occurs more than once" in run.output
    assert "proteins.fasta:7 c has 5 residues, more than 4; see --long_sequences" in run.output
    assert "EMBED_CHUNK" not in run.submitted()
    assert not list((tmp_path / "results").glob("*.*"))


@pytest.mark.parametrize("name, given", [("input", "columns.csv"), ("model", "nowhere.pt"), ("reuse", "it's.h5")])
def test_what_is_wrong_with_a_file_is_told_before_any_task(tmp_path, hostile_pt, name, given):
    """One of each; all that can be: tests/test_inputs.py."""
    (tmp_path / "columns.csv").write_text("name,fasta_1\nx,a.fasta\n")
    (tmp_path / "it's.h5").touch()
    run = run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), f"--{name}", given, check=False)
    assert run.code != 0 and given in run.output
    assert not run.submitted()


def test_a_model_that_is_none_stops_before_any_embedding(tmp_path, hostile_pt):
    run = run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "--model", "esm2_t6_8M", check=False)
    assert run.code != 0 and "did you mean esm2_t6_8M_UR50D?" in run.output
    assert "EMBED_CHUNK" not in run.submitted()


def test_several_files_and_globs_are_taken_in_order_and_vectors_of_drawn_weights_are_said_to_mean_nothing(tmp_path, hostile_pt):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        with gzip.open(tmp_path / name / "part.fasta.gz", "wt") as handle:
            handle.write(f">{name}\n{make_proteins([30], seed=ord(name))[0]}\n")
    files = f"{tmp_path}/b/part.fasta.gz,{tmp_path}/proteins.fasta,{tmp_path}/a/*.gz"
    given = ["--chunk_residues", 99999, "--input", files, "--model", "random:esm2_t6_8M_UR50D"]
    run = run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), *given)
    with h5py.File(tmp_path / "results" / "embeddings.h5") as file:
        ids = list(file["sequence_ids"].asstr())
        assert (file.attrs["random_weights"], file.attrs["model"]) == (1, "random:esm2_t6_8M_UR50D")
    assert (ids[0], ids[1], ids[-1], len(ids)) == ("b", "protein0", "a", 62)
    assert "RANDOM WEIGHTS: these vectors mean nothing" in run.output


@pytest.fixture(scope="module")
def beyond(tmp_path_factory, hostile_pt):
    """A run whose vectors are not fair-esm's, for the model's attention is too sharp for bfloat16; the task has an option of every kind: (folder, run)."""
    folder = tmp_path_factory.mktemp("beyond")
    (folder / "one.config").write_text("process { withName: EMBED_CHUNK { cpus = 1 } }\n")
    options = ["--dtype", "bfloat16", "--repr_layers", "0,-1", "--include", "mean,per_tok", "--max_residues", 50, "--max_tokens", 300]
    given = [*basic(folder, hostile_pt), *options, "--verify", 16, "-c", "one.config"]
    return folder, run_pipeline(folder, *given, check=False)


def test_a_run_whose_verification_fails_is_a_failed_run_and_publishes_nothing(beyond):
    folder, run = beyond
    assert run.code != 0 and "vectors of this run are not fair-esm's" in run.output and "Command exit status:\n  69" in run.output
    assert run.submitted()["VERIFY_EMBEDDINGS"] == 1 and "MERGE_CHUNKS" not in run.submitted()
    assert not list((folder / "results").glob("*.*"))


def test_options_of_the_embedding_take_effect_in_its_tasks(beyond):
    chunks = list(beyond[0].glob("work/*/*/chunk_*.h5"))
    assert len(chunks) >= 2
    for path in chunks:
        with open_chunk_file(path) as stored:
            recipe = stored.identity
            assert (recipe.compute_dtype, recipe.repr_layers, recipe.include, recipe.max_residues) == ("bfloat16", (0, 3), ("mean", "per_tok"), 50)
        metrics = json.loads(path.with_suffix(".metrics.json").read_text())
        assert (metrics["device"], metrics["max_tokens"]) == ("CPU, 1 threads", 300)


def test_a_sequence_that_fails_leaves_all_others_done_and_the_run_failed(tmp_path):
    model = random_esm2(Shape(1, 64, 1), seed=2)
    model.embed_tokens.weight[model.alphabet.get_idx("O")] = float("nan")
    save_esm2(model, tmp_path / "poisoned.pt")
    given = make_proteins([100] * 12, seed=1)
    given[2] += "O"
    fasta = write_fasta(tmp_path / "in.fasta", given)
    shared = ["--input", fasta, "--model", tmp_path / "poisoned.pt", "--weights_dir", tmp_path, "--chunk_residues", "700", "--report", "false"]
    failed = run_pipeline(tmp_path, *shared, check=False)
    assert failed.code != 0
    assert "not finite" in failed.output and "protein2" in failed.output
    assert not (tmp_path / "results" / "embeddings.h5").exists()
    skipped = run_pipeline(tmp_path, *shared, "--on_failure", "skip", "-resume")
    assert re.search(r"checkpoints hold 11 sequences \(\d chunks\)", skipped.output)
    assert "11 of 12 records embedded" in skipped.output
    assert sum(metrics["forward_passes"] for metrics in metrics_of(tmp_path / "work") if metrics["failed"]) == 1
    assert json.loads((tmp_path / "results" / "summary.json").read_text())["n_skipped"] == 1


def test_the_demo_profile_runs_on_real_proteins_and_the_readmes_examples_read_its_result(tmp_path, hostile_pt, monkeypatch, capsys):
    outdir = re.search(r"^OUTDIR +\?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]  # make demo's
    given = ["--model", hostile_pt, "--weights_dir", tmp_path, "--chunk_residues", 60000, "--outdir", outdir, "--report", "false"]
    run = run_pipeline(tmp_path, "-profile", "demo", *given)
    assert f"{len(list(read_fasta(DEMO_FASTA)))} of 324 records embedded" in run.output
    assert run.submitted()["EMBED_CHUNK"] >= 2
    monkeypatch.chdir(tmp_path)
    with_h5py, with_reader = ({}, {})
    for example, names in zip(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL), (with_h5py, with_reader), strict=True):
        exec(example, names)
        assert "[" in capsys.readouterr().out
    assert np.array_equal(with_reader["first_ten"], with_h5py["vectors"][:10]) and len(with_reader["dataset"]) == 324


@pytest.mark.parametrize("parser", PARSERS)
def test_the_gpu_profile_starts_and_asks_its_tasks_for_a_gpu(tmp_path, hostile_pt, parser):
    """A profile's parameters reach the tasks: the env scope of the config would have read the default, cpu."""
    run = run_pipeline(tmp_path, "-profile", "gpu", *basic(tmp_path, hostile_pt), "--verify", 16, "-stub-run", parser=parser)
    assert "layers -1, mean, float16 on cuda" in run.output
    launchers = [path.read_text() for path in (tmp_path / "work").glob("*/*/.command.run")]
    assert [launcher.count('PROTEMBED_DEVICE="cuda"') for launcher in launchers] == [1] * 5
    assert sorted(launcher.count("&& protembed_take_gpu ''") for launcher in launchers) == [0, 0, 0, 1, 1]  # embedding and verification


def test_parameters_of_a_site_config_reach_the_tasks_and_the_users_command_means_nothing_to_their_shells(tmp_path, hostile_pt):
    (tmp_path / "site.config").write_text("params { max_tokens = 777; checkpoint_seconds = 5 }\n")
    run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "--verify", 16, "-c", "site.config", "--cluster_options", "$(touch pwned)", "-stub-run")
    launchers = [path.read_text() for path in (tmp_path / "work").glob("*/*/.command.run")]
    assert [launcher.count('PROTEMBED_MAX_TOKENS="777"') + launcher.count('PROTEMBED_CHECKPOINT_SECONDS="5"') for launcher in launchers] == [2] * 5
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_fails_the_run_instead_of_computing_on_the_cpu(tmp_path, hostile_pt):
    (tmp_path / "once.config").write_text("process.maxRetries = 0\n")
    run = run_pipeline(tmp_path, "-profile", "gpu", *basic(tmp_path, hostile_pt), "--chunk_residues", 99999, "-c", "once.config", check=False)
    assert run.code != 0 and "no CUDA GPU is in sight" in run.output
