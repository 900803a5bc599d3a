"""Contacts are unmodified fair-esm's, through packs, checkpoints, chunk file and embeddings.h5."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch

from protembed import contacts, layout, ledger
from protembed.chunk_file import open_chunk_file
from protembed.esm2 import PackedESM2
from protembed.layout import CONTACTS, Flag
from protembed.reading import open_embeddings
from protembed.store import check_embeddings
from protembed.weights import load_esm2, save_esm2
from tests.conftest import FP32_BOUND, make_proteins, metrics_of, relative_l2, run_inside, write_chunk, write_fasta
from tests.nextflow import run_pipeline
from tests.results import small_result
from tests.test_check_h5 import refused, resealed
from tests.test_embed_chunk import embed, only_h5, same_bits

LENGTHS = [90, 300, 1, 2, 64, 65, 33, 90]


@pytest.fixture(scope="module")
def sequences():
    return make_proteins(LENGTHS, seed=21)


@pytest.fixture(scope="module")
def with_regression(hostile_esm2, tmp_path_factory):
    """The hostile model with a regression that is large enough for probabilities all over 0..1, as fair-esm has it on disk."""
    folder = tmp_path_factory.mktemp("contacts")
    save_esm2(hostile_esm2, folder / "hostile.pt")
    weight = 30 * torch.randn(1, 6, generator=torch.Generator().manual_seed(5))
    regression = {"contact_head.regression.weight": weight, "contact_head.regression.bias": torch.tensor([-0.5])}
    torch.save({"model": regression}, folder / "hostile-contact-regression.pt")
    run_inside("fetch_weights.py", folder / "hostile.pt", "--outdir", folder / "weights")
    return folder / "weights"


@pytest.fixture(scope="module")
def reference(with_regression, sequences):
    """What fair-esm's own forward pass gives with return_contacts."""
    model = load_esm2(with_regression / "model.pt", with_regression / "regression.pt").float()
    converter = model.alphabet.get_batch_converter()
    with torch.inference_mode():
        return [model(converter([("one", sequence)])[2], return_contacts=True)["contacts"][0] for sequence in sequences]


def distance(ours, theirs):
    return relative_l2(torch.as_tensor(ours).reshape(1, -1), theirs.reshape(1, -1))


def test_contacts_of_every_sequence_are_fair_esms(with_regression, sequences, reference):
    model = load_esm2(with_regression / "model.pt", with_regression / "regression.pt")
    engine = PackedESM2(model, [1], ("mean", "contacts"), torch.float32, torch.device("cpu"))
    vectors = engine.embed(sequences)
    parts = vectors[CONTACTS].split([length**2 for length in LENGTHS])
    worst = max(distance(part, theirs) for part, theirs in zip(parts, reference))
    print(f"worst relative L2 {worst:.1e}; probabilities from {min(map(torch.min, reference)):.3f} to {max(map(torch.max, reference)):.3f}")
    assert worst <= FP32_BOUND
    assert max(map(torch.max, reference)) > 0.9 and min(map(torch.min, reference)) < 0.1
    alone = PackedESM2(model, [1], ("mean",), torch.float32, torch.device("cpu")).embed(sequences)
    assert torch.equal(alone["representations/1/mean"], vectors["representations/1/mean"]), "contacts moved the vectors"


def test_half_precision_gives_contacts_within_its_bound(with_regression, sequences, reference):
    model = load_esm2(with_regression / "model.pt", with_regression / "regression.pt")
    vectors = PackedESM2(model, [3], ("contacts",), torch.float16, torch.device("cpu")).embed(sequences)
    parts = vectors[CONTACTS].split([length**2 for length in LENGTHS])
    assert max((part.view_as(theirs) - theirs).abs().max() for part, theirs in zip(parts, reference)) < 0.1  # sharp attention, large regression


@pytest.fixture
def short_limit(monkeypatch):
    """A limit that the 300 residues exceed."""
    for module in (layout, contacts, ledger):
        monkeypatch.setattr(module, "CONTACTS_MAX_RESIDUES", 100)
    return 100


def test_longer_sequences_have_no_contacts_and_all_others_have_theirs_from_checkpoint_and_file(tmp_path, with_regression, sequences, reference, short_limit):
    chunk, options = write_chunk(tmp_path / "chunk.fasta", sequences[:-1]), ["--include", "contacts,mean,per_tok", "--max-tokens", 200]
    embed(chunk, with_regression, tmp_path / "whole", *options)
    embed(chunk, with_regression, tmp_path / "part", *options, "--checkpoint-seconds", 0)
    for path in sorted((tmp_path / "part").rglob("batch_*.pt"))[::2]:
        path.unlink()
    embed(chunk, with_regression, tmp_path / "part", *options)
    assert metrics_of(tmp_path / "part")[0]["reused"] > 0
    assert same_bits(only_h5(tmp_path / "whole"), only_h5(tmp_path / "part"))
    with open_chunk_file(only_h5(tmp_path / "whole")) as stored:
        for row, theirs in enumerate(reference[:-1]):
            ours = stored.vectors(CONTACTS, np.array([row]))
            assert len(ours) == (0 if LENGTHS[row] > short_limit else LENGTHS[row] ** 2)
            assert not len(ours) or distance(ours, theirs) <= FP32_BOUND


def test_embeddings_hold_the_matrices_and_the_ledger_says_who_has_none(tmp_path, with_regression, sequences, reference, short_limit):
    run_inside("split_fasta.py", write_fasta(tmp_path / "in.fasta", sequences), "--outdir", tmp_path, "--chunk-residues", 300, "--sample", 3)
    options = ["--include", "contacts,mean", "--checkpoint-seconds", 0]
    for chunk in (tmp_path / "chunks").iterdir():
        embed(chunk, with_regression, tmp_path / "vectors", *options)
    chunks = list((tmp_path / "vectors").glob("chunk_*.h5"))
    assert len(chunks) > 1
    shared = ["--weights", with_regression, "--outdir", tmp_path]
    run_inside("verify_embeddings.py", *chunks, "--sample", tmp_path / "sample.fasta", *shared)
    figures = json.loads((tmp_path / "verify.json").read_text())["worst"]
    assert set(figures) == {"mean", "contacts"} and figures["contacts"]["relative_l2"] < FP32_BOUND
    for form in (["--compression", "gzip"], ["--store-dtype", "float16"], []):
        run_inside(
            "merge_chunks.py", *chunks, "--records", tmp_path / "records.tsv", "--weights", with_regression / "weights.json", "--outdir", tmp_path, *form
        )
        assert check_embeddings(tmp_path / "embeddings.h5")["contacts_max_residues"] == short_limit
        with open_embeddings(tmp_path / "embeddings.h5") as embeddings:
            for row, theirs in enumerate(reference):
                ours = embeddings.contacts(row)
                assert (ours is None) == (LENGTHS[row] > short_limit)
                assert ours is None or distance(ours, theirs) <= (2e-3 if "float16" in form else FP32_BOUND)
    reasons = [line.split("\t")[6] for line in (tmp_path / "ledger.tsv").read_text().splitlines()[1:]]
    assert reasons == ["no contacts: more than 100 residues" if length > short_limit else "" for length in LENGTHS]
    with h5py.File(tmp_path / "embeddings.h5") as file:  # as docs/output.md reads it
        start, end = file["contact_offsets"][4:6]
        assert distance(file["contacts"][start:end].reshape(64, 64), reference[4]) <= FP32_BOUND


def test_offsets_of_matrices_that_are_not_square_are_refused(tmp_path, with_regression):
    def change(file):
        file["contact_offsets"][1] += 1

    result = small_result(tmp_path, with_regression, "--include", "mean,contacts")
    refused(68, "contact_offsets are not those of square matrices", resealed(result, tmp_path, change))


def test_verify_notices_wrong_contacts(tmp_path, with_regression, sequences, monkeypatch):
    right = contacts._weighted
    monkeypatch.setattr(contacts, "_weighted", lambda part, weight: right(part, weight) * 1.001)
    write_fasta(tmp_path / "in.fasta", sequences[:1])
    run_inside("split_fasta.py", tmp_path / "in.fasta", "--outdir", tmp_path, "--sample", 1)
    embed(next((tmp_path / "chunks").iterdir()), with_regression, tmp_path, "--include", "contacts")
    done = run_inside(
        "verify_embeddings.py", *tmp_path.glob("*.h5"), "--sample", tmp_path / "sample.fasta", "--weights", with_regression, "--outdir", tmp_path, check=False
    )
    assert done.returncode == 69 and "contacts: relative L2" in done.stderr


def test_another_regression_is_another_recipe(tmp_path, with_regression, sequences):
    shutil.copytree(with_regression.parent, tmp_path / "other")
    content = torch.load(tmp_path / "other" / "hostile-contact-regression.pt")
    content["model"]["contact_head.regression.bias"] += 1
    torch.save(content, tmp_path / "other" / "hostile-contact-regression.pt")
    run_inside("fetch_weights.py", tmp_path / "other" / "hostile.pt", "--outdir", tmp_path / "other" / "weights")
    chunk = write_chunk(tmp_path / "chunk.fasta", sequences[2:6])
    for include, reused in (("mean", 4), ("mean,contacts", 0)):
        for weights in (with_regression, tmp_path / "other" / "weights"):
            embed(chunk, weights, tmp_path / "out", "--include", include)
        assert metrics_of(tmp_path / "out")[0]["reused"] == reused


def test_contacts_without_a_regression_are_refused_in_one_line(tmp_path, weights, sequences):
    done = embed(write_chunk(tmp_path / "chunk.fasta", sequences[:1]), weights, tmp_path / "out", "--include", "contacts", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (66, 1)
    assert "contacts need the regression of hostile.pt: put NAME-contact-regression.pt beside NAME.pt" in done.stderr


def test_contacts_in_windows_that_are_too_small_are_a_bad_option(tmp_path, with_regression, sequences):
    options = ["--include", "contacts", "--long-sequences", "window", "--max-residues", 500]
    done = embed(write_chunk(tmp_path / "chunk.fasta", sequences[:1]), with_regression, tmp_path / "out", *options, check=False)
    assert done.returncode == 78 and "at least 1022" in done.stderr


@pytest.mark.nextflow
def test_a_run_gives_windows_contacts_and_compression_to_the_steps_that_need_them(tmp_path, with_regression, sequences, reference):
    fasta = write_fasta(tmp_path / "in.fasta", [*make_proteins([1500], seed=2), *sequences])
    options = ["--include", "mean,contacts", "--long_sequences", "window", "--compression", "gzip", "--verify", 4, "--report", "false"]
    run = run_pipeline(tmp_path, "--input", fasta, "--model", with_regression.parent / "hostile.pt", "--weights_dir", tmp_path, *options)
    assert "9 of 9 records embedded" in run.output and "1 in windows" in run.output and "contacts within" in run.output
    with open_embeddings(tmp_path / "results" / "embeddings.h5", verify=True) as embeddings:
        assert embeddings.flags[0] == Flag.WINDOWED and embeddings.contacts("protein0") is None
        assert distance(embeddings.contacts("protein1"), reference[0]) <= FP32_BOUND
    with h5py.File(tmp_path / "results" / "embeddings.h5") as file:
        assert file["embeddings"].compression == file["contacts"].compression == "gzip"
