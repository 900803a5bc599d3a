"""A sequence of titin's length under each policy, through every step."""

import math

import h5py
import numpy as np
import pytest

from protembed import esm2
from protembed.allocation import free_memory
from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2
from tests.conftest import FP32_BOUND, make_proteins, metrics_of, relative_l2, run_inside, write_chunk, write_fasta
from tests.test_embed_chunk import embed

TITIN = 34350  # residues of UniProt's Q8WZ42


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """One head of 16, one layer: attention over 34,350 residues is what costs."""
    folder = tmp_path_factory.mktemp("narrow")
    save_esm2(random_esm2(Shape(1, 16, 1), seed=3), folder / "narrow.pt")
    run_inside("fetch_weights.py", folder / "narrow.pt", "--outdir", folder / "weights")
    return folder / "weights"


TOLD = [("truncate", "embedded", "first 1022 residues"), ("window", "windowed", "mean of 67 windows of 1022 residues"), ("full", "embedded", "")]


@pytest.mark.parametrize("policy, status, reason", TOLD)
def test_titin_is_embedded_under_each_policy_from_fasta_to_ledger_and_verified(tmp_path, narrow, policy, status, reason):
    given = make_proteins([60, TITIN, 2500], seed=8)
    long = ["--long-sequences", policy]
    run_inside("split_fasta.py", write_fasta(tmp_path / "in.fasta", given), "--outdir", tmp_path, "--sample", 2, "--max-residues", 1022, *long)
    for chunk in (tmp_path / "chunks").iterdir():
        embed(chunk, narrow, tmp_path, *long, "--include", "mean,per_tok")
    chunks = list(tmp_path.glob("chunk_*.h5"))
    run_inside("verify_embeddings.py", *chunks, "--sample", tmp_path / "sample.fasta", "--weights", narrow, "--outdir", tmp_path)
    run_inside("merge_chunks.py", *chunks, "--records", tmp_path / "records.tsv", "--weights", narrow / "weights.json", "--outdir", tmp_path)
    line = (tmp_path / "ledger.tsv").read_text().splitlines()[2].split("\t")
    assert (line[1], line[2], line[3], line[6]) == (status, "1", str(TITIN), reason)
    with h5py.File(tmp_path / "embeddings.h5") as file:
        assert file.attrs["n_embedded"] == 3
        here = slice(*file["offsets"][1:3])
        assert here.stop - here.start == (1022 if policy == "truncate" else TITIN)
        assert np.isfinite(file["embeddings"][1]).all()
        assert relative_l2(file["embeddings"][1][None], file["representations/1/per_tok"][here].astype(float).mean(0)[None]) <= FP32_BOUND


@pytest.mark.parametrize("limit, free", [("max", 2e9), ("1500000000", 1.2e9), ("", 2e9)])
def test_the_memory_that_is_free_is_the_machines_or_what_the_control_group_leaves(tmp_path, limit, free):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:        8000000 kB\nMemAvailable:    1953125 kB\n")
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    if limit:
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.stat").write_text("file 7\nanon 300000000\n")
    assert free_memory(str(tmp_path)) == free
    assert free_memory(str(tmp_path / "nothing")) == math.inf
    assert 1e6 < free_memory() < 1e15


def test_a_sequence_for_which_the_memory_does_not_suffice_is_named_with_what_it_needs_and_the_others_are_kept(tmp_path, narrow, monkeypatch):
    monkeypatch.setattr(esm2, "free_memory", lambda: 30e6)
    monkeypatch.setattr(esm2, "UNDOUBTED", 1 << 20)
    chunk = write_chunk(tmp_path / "chunk.fasta", make_proteins([60, TITIN, 2500], seed=8))
    done = embed(chunk, narrow, tmp_path / "out", "--long-sequences", "full", check=False)
    assert done.returncode == 69
    assert "(row 1): out of memory with 34352 tokens alone in a pack (about 0.0 GB needed, 0.0 GB free); use a device with more" in done.stderr
    embed(chunk, narrow, tmp_path / "out", "--long-sequences", "full", "--on-failure", "skip")
    (metrics,) = metrics_of(tmp_path / "out")
    assert (metrics["reused"], metrics["failed"]) == (2, 1)
    monkeypatch.setattr(esm2, "free_memory", lambda: 50e6)
    embed(chunk, narrow, tmp_path / "out", "--long-sequences", "full")
    assert metrics_of(tmp_path / "out")[0]["computed"] == 1
