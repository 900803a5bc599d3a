"""On a real CUDA device: fair-esm's numbers, and the kernels that are meant to run."""

import pytest
import torch

from protembed import attention, esm2, pointwise
from protembed.device import compute_exactly
from protembed.embedding import Embedder
from protembed.esm2 import PackedESM2
from protembed.layout import vector_name
from protembed.shapes import Shape
from protembed.weights import random_esm2
from tests.conftest import draw_lengths, make_proteins, reference_layers, relative_l2

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
LENGTHS = [1, 2, 49, 50, 50, 130, 383, 384, 385, 700, 1022, 3000]
# Attention of moderate sharpness: the bound of half precision is about learned weights (docs/usage.md).
BOUNDS = {torch.float32: (3.0, 2e-5), torch.float16: (1.5, 2e-3), torch.bfloat16: (1.5, 1.6e-2)}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_every_residue_of_every_layer_is_fair_esms_on_the_gpu(dtype):
    compute_exactly()
    sharpness, bound = BOUNDS[dtype]
    model, sequences = random_esm2(Shape(4, 256, 4), seed=7, sharpness=sharpness), make_proteins(LENGTHS, seed=3)
    ours = PackedESM2(model, range(5), ("mean", "per_tok"), dtype, torch.device("cuda")).embed(sequences)
    start = 0
    for row, sequence in enumerate(sequences):
        reference = reference_layers(model, sequence, range(5))
        for layer in range(5):
            residues = ours[vector_name(layer, "per_tok")][start : start + len(sequence)]
            assert relative_l2(residues, reference[layer][1:-1]) <= bound
            mean = ours[vector_name(layer, "mean")][row : row + 1]
            assert torch.cosine_similarity(mean, reference[layer][1:-1].mean(0, keepdim=True)).item() >= (0.99999 if dtype != torch.bfloat16 else 0.99936)
        start += len(sequence)


def test_the_flash_kernel_is_the_one_that_runs():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no flash attention")
    engine = PackedESM2(random_esm2(Shape(2, 256, 4)), [2], ("mean",), torch.float16, torch.device("cuda"))
    assert engine.attend in (attention.attend_flash, attention.attend_flash_by_operator)
    assert attention.multiplies_complex_halves(torch.device("cuda"))
    sequences = make_proteins(LENGTHS[:-1])
    engine.embed(sequences)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        engine.embed(sequences)
    assert sum(event.count for event in profile.key_averages() if "flash" in event.key.lower()) >= 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_our_kernels_are_the_ones_that_run_and_give_torchs_numbers(monkeypatch, dtype):
    model, sequences, place = random_esm2(Shape(3, 640, 20), seed=1, sharpness=1.5), make_proteins(LENGTHS), torch.device("cuda")
    ours = PackedESM2(model, range(4), ("mean", "bos", "per_tok", "contacts"), dtype, place)
    assert {type(layer.pointwise) for layer in ours.layers} == {pointwise.Fused}
    monkeypatch.setattr(esm2, "chosen_pointwise", lambda *arguments: pointwise.Portable())
    torchs = PackedESM2(model, range(4), ours.include, dtype, place).embed(sequences)
    for name, rows in ours.embed(sequences).items():
        assert relative_l2(rows, torchs[name]) <= {torch.float16: 5e-4, torch.bfloat16: 4e-3}[dtype], name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_pass_is_queued_without_waiting_for_the_device(dtype):
    engine = PackedESM2(random_esm2(Shape(2, 256, 4)), [1, 2], ("mean", "bos", "per_tok"), dtype, torch.device("cuda"))
    sequences = make_proteins(LENGTHS)
    engine.embed(sequences)
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.begin(sequences)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_host_is_ahead_of_the_device():
    model = random_esm2(Shape(12, 1280, 20))
    engine = PackedESM2(model, [12], ("mean",), torch.float16, torch.device("cuda"))
    sequences = make_proteins(draw_lengths(4000, 50, 400))
    ended = []

    def begin(rows):
        ended.append(torch.cuda.current_stream().query())
        return engine.begin([sequences[row] for row in rows])

    embedder = Embedder(list(map(len, sequences)), begin, None, max_tokens=65536)
    assert sum(len(batch.rows) for batch in embedder.run(set(range(len(sequences))))) == 4000
    assert ended[2:].count(False) >= len(ended[2:]) - 1, "the device had nothing to do when a pack was queued"


def test_packs_that_are_queued_ahead_give_the_bits_of_packs_that_are_waited_for():
    """A buffer that is used again too early puts vectors under other names."""
    engine = PackedESM2(random_esm2(Shape(6, 640, 10)), [0, 6], ("mean", "bos", "per_tok"), torch.float16, torch.device("cuda"))
    sequences = make_proteins(draw_lengths(600, 20, 700, seed=4))

    def begin(rows):
        return engine.begin([sequences[row] for row in rows])

    embedder = Embedder(list(map(len, sequences)), begin, None, max_tokens=6000)
    batches = list(embedder.run(set(range(len(sequences)))))
    assert len(batches) >= 30
    for batch in batches:
        alone = engine.embed([sequences[row] for row in batch.rows.tolist()])
        torch.cuda.synchronize()
        assert all(torch.equal(part, batch.vectors[name]) and not part.is_pinned() for name, part in alone.items())
