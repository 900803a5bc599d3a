import numpy as np
import pytest
import torch
import torch.nn.functional as F
from esm.data import Alphabet

from protembed import projection
from protembed.errors import BadOption
from protembed.esm2 import PackedESM2
from protembed.identity import resolve_layers
from protembed.layout import vector_name
from protembed.pooling import means_by_length, means_by_segments
from protembed.projection import Projection
from protembed.proteins import ALPHABET
from protembed.shapes import Shape
from protembed.tokens import Tokenizer
from protembed.weights import random_esm2
from tests.conftest import make_proteins, reference_layers, relative_l2

CPU = torch.device("cpu")
LAYERS = range(4)
ALL = ("mean", "bos", "per_tok")
# Hard bound of the design for fp32 against unmodified fair-esm fp32, per residue and layer.
FP32_BOUND = 2e-5


@pytest.fixture(scope="module")
def sequences():
    """Mixed company, longest first, from 1 residue to far beyond the 1022 of training; one with every letter there is."""
    return [*make_proteins([2500, 1022, 1021, 317, 316, 50, 50, 50, 49, 7, 2, 1, 1], seed=3), ALPHABET]


@pytest.fixture(scope="module")
def packed(hostile_esm2, sequences):
    return PackedESM2(hostile_esm2, LAYERS, ALL, torch.float32, CPU).embed(sequences)


def per_sequence(vectors, layer, sequences):
    return vectors[vector_name(layer, "per_tok")].split([len(sequence) for sequence in sequences])


def test_every_residue_of_every_layer_is_fair_esms_within_the_hard_bound(hostile_esm2, sequences, packed):
    worst = 0.0
    for place, sequence in enumerate(sequences):
        reference = reference_layers(hostile_esm2, sequence, LAYERS)
        for layer in LAYERS:
            worst = max(worst, relative_l2(per_sequence(packed, layer, sequences)[place], reference[layer][1:-1]))
            worst = max(worst, relative_l2(packed[vector_name(layer, "bos")][place], reference[layer][0]))
            worst = max(worst, relative_l2(packed[vector_name(layer, "mean")][place], reference[layer][1:-1].double().mean(0)))
    print(f"worst relative L2 over layers 0 to 3: {worst:.1e}")
    assert worst <= FP32_BOUND


def test_a_sequence_has_the_same_vector_in_any_company(hostile_esm2, sequences):
    engine = PackedESM2(hostile_esm2, [3], ("mean", "per_tok"), torch.float32, CPU)
    subject = sequences[3]
    alone = engine.embed([subject])
    for company in (sequences[:3], sequences[4:], [subject, subject], make_proteins([317] * 5, seed=9)):
        together = engine.embed([*company, subject])
        assert relative_l2(together[vector_name(3, "mean")][-1], alone[vector_name(3, "mean")][0]) <= FP32_BOUND
        assert relative_l2(together[vector_name(3, "per_tok")][-len(subject) :], alone[vector_name(3, "per_tok")]) <= FP32_BOUND


def test_half_precision_products_stay_within_their_bound(sequences):
    """Rounding q and k to half moves a logit by its own size times 2^-11, so the error grows with the sharpness of attention."""
    model = random_esm2(Shape(3, 128, 2), seed=7, sharpness=1.5)
    single, half = (PackedESM2(model, [3], ("mean", "per_tok"), dtype, CPU).embed(sequences) for dtype in (torch.float32, torch.float16))
    worst = relative_l2(half[vector_name(3, "per_tok")], single[vector_name(3, "per_tok")])
    means = (vectors[vector_name(3, "mean")].double() for vectors in (half, single))
    cosine = torch.cosine_similarity(*means).min().item()
    print(f"float16: worst relative L2 {worst:.1e}, least cosine of a mean 1 - {1 - cosine:.1e}")
    assert worst <= 2e-3
    assert cosine >= 0.99999


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda engine: setattr(engine, "table", engine.table / 0.88), id="token dropout scale left out"),
        pytest.param(lambda engine: setattr(engine, "inv_freq", 1 / 10000 ** (torch.arange(0, 64, 2) / 64)), id="rotary frequencies recomputed"),
        pytest.param(lambda engine: setattr(engine, "last_norm", lambda stream: stream), id="final norm left out"),
        pytest.param(lambda engine: (engine.layers.pop(), setattr(engine, "layer_count", 2)), id="a layer short"),
    ],
)
def test_the_bound_notices_the_mistakes_of_other_tools(hostile_esm2, sequences, break_it):
    engine = PackedESM2(hostile_esm2, [3], ("per_tok",), torch.float32, CPU)
    break_it(engine)
    engine.wanted = {engine.layer_count}
    broken = engine.embed(sequences[:2])[vector_name(engine.layer_count, "per_tok")]
    reference = reference_layers(hostile_esm2, sequences[0], [3])[3][1:-1]
    assert relative_l2(broken[: len(sequences[0])], reference) > 10 * FP32_BOUND


def test_tokens_are_fair_esms(hostile_esm2, sequences):
    tokens = Tokenizer(hostile_esm2.alphabet).pack(sequences).tokens_T.tolist()
    expected = []
    for sequence in sequences:
        expected += hostile_esm2.alphabet.get_batch_converter()([("one", sequence)])[2][0].tolist()
    assert tokens == expected


def test_a_letter_without_token_is_refused_not_replaced(hostile_esm2):
    with pytest.raises(ValueError, match="'J'"):
        Tokenizer(hostile_esm2.alphabet).pack(["ACJ"])


def test_positions_restart_with_each_sequence(hostile_esm2):
    assert Tokenizer(hostile_esm2.alphabet).pack(["AC", "D"]).positions_T.tolist() == [0, 1, 2, 3, 0, 1, 2]


@pytest.mark.parametrize("wanted, layers", [("-1", (6,)), ("0,6", (0, 6)), ("6,-1", (6,)), ("-7,3", (0, 3))])
def test_layers_are_numbered_as_in_esm_extract(wanted, layers):
    assert resolve_layers(wanted, 6) == layers


@pytest.mark.parametrize("wanted", ["7", "-8", "1,x", ""])
def test_a_layer_that_is_not_there_is_a_bad_option(wanted):
    with pytest.raises(BadOption, match="repr_layers"):
        resolve_layers(wanted, 6)


def test_equal_packs_give_equal_bits(hostile_esm2, sequences):
    engine = PackedESM2(hostile_esm2, [3], ("mean",), torch.float32, CPU)
    first, second = (engine.embed(sequences)[vector_name(3, "mean")].numpy() for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("length", [1, 2, 63, 700])
def test_fused_and_portable_products_agree(hostile_esm2, monkeypatch, length):
    layer = hostile_esm2.layers[0]
    generator = torch.Generator().manual_seed(length)
    wide, narrow, residual = (torch.randn(length, width, generator=generator) for width in (512, 128, 128))
    fused, fused_down = (Projection(part, dtype=torch.float32, device=CPU) for part in (layer.fc1, layer.fc2))
    assert fused.fused  # this torch has oneDNN; if it ever has not, the speed of README's table is gone too
    with monkeypatch.context() as without:
        without.setattr(projection, "_FUSED", None)
        portable, portable_down = (Projection(part, dtype=torch.float32, device=CPU) for part in (layer.fc1, layer.fc2))
    assert not portable.fused
    with torch.inference_mode():
        assert relative_l2(fused(narrow), portable(narrow)) <= 2e-6
        assert relative_l2(fused.then_gelu(narrow), portable.then_gelu(narrow)) <= 2e-6
        assert relative_l2(fused_down.added_to(residual, wide), portable_down.added_to(residual, wide)) <= 2e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gelu_of_half_precision_is_computed_in_single(dtype):
    values = torch.linspace(-6, 6, 4001).to(dtype)
    worst = (F.gelu(values).double() - F.gelu(values.double())).abs()
    assert (worst <= 0.51 * torch.finfo(dtype).eps * values.double().abs() + 2e-5).all()  # but for the rounding of the result


def test_means_by_length_are_the_bits_of_a_mean_for_each_sequence_and_those_by_segments_agree():
    pack = Tokenizer(Alphabet.from_architecture("ESM-1b")).pack(make_proteins([1, 2, 50, 50, 50, 3000, 2, 2], seed=1))
    stream = torch.randn(len(pack.tokens_T), 64, generator=torch.Generator().manual_seed(1)) + 100  # sums far from 0 show lost digits
    parts = stream.split(pack.lengths)
    assert torch.equal(means_by_length(stream, pack), torch.stack([part[1:-1].mean(0) for part in parts]))
    exact = torch.stack([part[1:-1].double().mean(0) for part in parts])
    assert relative_l2(means_by_length(stream, pack), exact) <= 2e-7 and relative_l2(means_by_segments(stream, pack), exact) <= 2e-7


def test_layers_above_the_highest_that_is_asked_for_are_not_computed(hostile_esm2, sequences):
    whole, part = (PackedESM2(hostile_esm2, layers, ("mean",), torch.float32, CPU) for layers in ([0, 1, 3], [0, 1]))
    assert len(part.layers) == 1
    ours, theirs = part.embed(sequences), whole.embed(sequences)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and len(ours) == 2
