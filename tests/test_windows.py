"""Sequences beyond max_residues in windows that overlap: right, checkpointed, failing as one."""

import numpy as np
import pytest
import torch

from protembed import stitching
from protembed.chunk_file import open_chunk_file
from protembed.layout import Flag
from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2
from protembed.windows import Pieces, window_count, window_starts
from tests.conftest import FP32_BOUND, killed_after, make_proteins, metrics_of, reference_layers, relative_l2, run_inside, write_chunk, write_fasta
from tests.test_embed_chunk import embed, only_h5, same_bits

SIZE = 100
LAYERS = (0, 2, 3)
EVERYTHING = [
    "--long-sequences",
    "window",
    "--max-residues",
    SIZE,
    "--repr-layers",
    "0,2,3",
    "--include",
    "mean,bos,per_tok",
    "--threads",
    1,
    "--max-tokens",
    250,
]


@pytest.fixture(scope="module")
def sequences():
    return make_proteins([30, 101, 777, 100, 99, 250, 1, 260, 5], seed=4)


def averaged_windows(model, sequence, layers, size):
    """layer -> (per_tok, mean, bos), straight from the definition."""
    starts = window_starts(len(sequence), size)
    passes = [reference_layers(model, sequence[start : start + size], layers) for start in starts]
    found = {}
    for layer in layers:
        residues = [[] for _ in sequence]
        for start, window in zip(starts, passes):
            for place, vector in enumerate(window[layer][1:-1].double(), start):
                residues[place].append(vector)
        per_tok = torch.stack([torch.stack(vectors).mean(0) for vectors in residues])
        found[layer] = per_tok, per_tok.mean(0, keepdim=True), torch.stack([window[layer][0].double() for window in passes]).mean(0, keepdim=True)
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1022])
@pytest.mark.parametrize("residues", [1, 2, 3, 9, 10, 11, 15, 16, 1533, 1534, 34350])
def test_windows_cover_a_sequence_half_a_window_apart_and_the_last_ends_with_it(residues, size):
    starts = window_starts(residues, size)
    steps = np.diff(starts)
    assert starts[0] == 0 and starts[-1] + size == max(residues, size)
    assert window_count(residues, size) == window_count(np.array([residues]), size) == len(starts)
    assert (steps[:-1] == size - size // 2).all() and (steps > 0).all() and (steps <= size - size // 2).all()


def test_the_rows_of_windows_are_fair_esms_residues_averaged(tmp_path, weights, hostile_esm2, sequences):
    embed(write_chunk(tmp_path / "chunk.fasta", sequences), weights, tmp_path / "out", *EVERYTHING)
    (metrics,) = metrics_of(tmp_path / "out")
    assert (metrics["computed"], metrics["sequences"], metrics["residues"]) == (len(sequences), len(sequences), sum(map(len, sequences)))
    with open_chunk_file(only_h5(tmp_path / "out")) as stored:
        assert stored.flags.tolist() == [int(Flag.WINDOWED) * (len(sequence) > SIZE) for sequence in sequences]
        for row, sequence in enumerate(sequences):
            reference = averaged_windows(hostile_esm2, sequence, LAYERS, SIZE)
            for layer in LAYERS:
                for kind, wanted in zip(("per_tok", "mean", "bos"), reference[layer]):
                    assert relative_l2(stored.vectors(f"representations/{layer}/{kind}", np.array([row])), wanted) <= FP32_BOUND


def test_what_fits_into_one_window_has_the_very_vector_of_truncate(tmp_path, weights, sequences):
    """Same packs: without the long ones, the plans are the same."""
    short = [sequence for sequence in sequences if len(sequence) <= SIZE]
    for policy in ("window", "truncate"):
        embed(write_chunk(tmp_path / "chunk.fasta", short), weights, tmp_path / policy, "--long-sequences", policy, "--max-residues", SIZE)
    assert same_bits(only_h5(tmp_path / "window"), only_h5(tmp_path / "truncate"))


def test_windows_in_half_precision_that_leave_its_range_are_computed_again(tmp_path):
    model = random_esm2(Shape(1, 64, 1), seed=2)
    model.layers[0].fc1.weight *= 3e5
    save_esm2(model, tmp_path / "wild.pt", half=False)
    run_inside("fetch_weights.py", tmp_path / "wild.pt", "--outdir", tmp_path / "weights")
    (sequence,) = make_proteins([230], seed=1)
    options = ["--dtype", "float16", "--long-sequences", "window", "--max-residues", SIZE, "--include", "mean,per_tok"]
    embed(write_chunk(tmp_path / "chunk.fasta", [sequence]), tmp_path / "weights", tmp_path / "out", *options)
    per_tok, mean, _ = averaged_windows(model, sequence, [1], SIZE)[1]
    with open_chunk_file(only_h5(tmp_path / "out")) as stored:
        assert stored.flags.tolist() == [Flag.WINDOWED | Flag.FP32_RERUN]
        assert relative_l2(stored.vectors("representations/1/per_tok", [0]), per_tok) <= FP32_BOUND
        assert relative_l2(stored.vectors("representations/1/mean", np.array([0])), mean) <= FP32_BOUND


def test_a_window_that_fails_takes_its_sequence_along_and_no_other(tmp_path):
    model = random_esm2(Shape(1, 64, 1), seed=2)
    model.embed_tokens.weight[model.alphabet.get_idx("O")] = float("nan")
    save_esm2(model, tmp_path / "poisoned.pt")
    run_inside("fetch_weights.py", tmp_path / "poisoned.pt", "--outdir", tmp_path / "weights")
    given = make_proteins([230, 230, 50], seed=1)
    given[1] = given[1][:170] + "O" + given[1][171:]
    chunk, options = write_chunk(tmp_path / "chunk.fasta", given), ["--long-sequences", "window", "--max-residues", SIZE]
    failed = embed(chunk, tmp_path / "weights", tmp_path / "out", *options, check=False)
    assert failed.returncode == 69 and "(row 1): residues 101 to 200: the model gives numbers that are not finite" in failed.stderr
    embed(chunk, tmp_path / "weights", tmp_path / "out", *options, "--on-failure", "skip")
    with open_chunk_file(only_h5(tmp_path / "out")) as stored:
        assert list(stored.failed) == [1]
        wanted = averaged_windows(model, given[0], [1], SIZE)[1][1]
        assert relative_l2(stored.vectors("representations/1/mean", np.array([0])), wanted) <= FP32_BOUND


def test_a_worker_killed_between_the_windows_of_a_sequence_goes_on_to_the_same_bits(tmp_path, weights):
    chunk = write_chunk(tmp_path / "chunk.fasta", make_proteins([2500, 40, 3000, 350, 90], seed=5))
    options = ["--max-tokens", 410, "--long-sequences", "window", "--max-residues", 130, "--include", "mean,bos,per_tok", "--threads", 1]
    options += ["--checkpoint-seconds", 0]
    embed(chunk, weights, tmp_path / "whole", *options)
    killed_after(5, tmp_path / "killed", "embed_chunk.py", chunk, "--weights", weights, "--outdir", tmp_path / "killed", *options)
    assert not list((tmp_path / "killed").glob("*.h5"))
    embed(chunk, weights, tmp_path / "killed", *options)
    (whole,), (resumed,) = metrics_of(tmp_path / "whole"), metrics_of(tmp_path / "killed")
    assert resumed["forward_passes"] <= whole["forward_passes"] - 5, "windows of an unfinished sequence were computed again"
    assert same_bits(only_h5(tmp_path / "whole"), only_h5(tmp_path / "killed"))


def test_windows_survive_a_change_of_the_pack_budget_and_arrive_in_any_order(tmp_path, weights, hostile_esm2, sequences):
    """What a halving after out of memory does: some windows come from one plan, the rest from another."""
    chunk = write_chunk(tmp_path / "chunk.fasta", sequences)
    embed(chunk, weights, tmp_path / "out", *EVERYTHING, "--checkpoint-seconds", 0)
    batches = sorted((tmp_path / "out").rglob("batch_*.pt"))
    for path in batches[::2]:
        path.unlink()
    embed(chunk, weights, tmp_path / "out", *EVERYTHING[:-1], 110)
    (metrics,) = metrics_of(tmp_path / "out")
    assert 0 < metrics["forward_passes"] < len(Pieces(sequences, "window", SIZE))
    with open_chunk_file(only_h5(tmp_path / "out")) as stored:
        wanted = averaged_windows(hostile_esm2, sequences[2], [3], SIZE)[3]
        assert relative_l2(stored.vectors("representations/3/per_tok", [2]), wanted[0]) <= FP32_BOUND
        assert relative_l2(stored.vectors("representations/3/mean", np.array([2])), wanted[1]) <= FP32_BOUND


@pytest.mark.parametrize("mistake", ["overlaps counted twice in the mean", "overlaps not averaged"])
def test_verify_notices_windows_that_are_put_together_wrongly(tmp_path, weights, sequences, monkeypatch, mistake):
    if mistake == "overlaps not averaged":
        monkeypatch.setattr(stitching, "coverage", lambda windows: torch.ones(windows[-1].end))
    else:
        monkeypatch.setattr(stitching, "shares", lambda pieces, number: None)
    write_fasta(tmp_path / "in.fasta", sequences)
    run_inside("split_fasta.py", tmp_path / "in.fasta", "--outdir", tmp_path, "--sample", 3, "--chunk-residues", 9999)
    (chunk,) = (tmp_path / "chunks").iterdir()
    embed(chunk, weights, tmp_path, "--long-sequences", "window", "--max-residues", SIZE)
    done = run_inside(
        "verify_embeddings.py", *tmp_path.glob("*.h5"), "--sample", tmp_path / "sample.fasta", "--weights", weights, "--outdir", tmp_path, check=False
    )
    assert done.returncode == 69 and "vectors of this run are not fair-esm's" in done.stderr
