import pytest
import torch
from esm.data import Alphabet
from torch._subclasses.fake_tensor import FakeTensorMode

from protembed import attention
from protembed.tokens import PackedTokens, Tokenizer
from tests.conftest import relative_l2

CPU = torch.device("cpu")


@pytest.mark.parametrize("lengths", [[1], [2, 2, 2], [384, 384, 385], [52] * 40, [700, 100, 100, 3]])
def test_attention_as_a_whole_and_by_the_kernel_agree(monkeypatch, lengths):
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(sum(lengths), 3, 20, 16, generator=generator)
    pack = Tokenizer(Alphabet.from_architecture("ESM-1b")).pack(["A" * (length - 2) for length in lengths if length > 1] or [""])._replace(lengths=lengths)
    whole = attention.attend_by_length(qkv, pack)
    monkeypatch.setattr(attention, "LONGEST_AS_A_WHOLE", 0)
    assert relative_l2(whole.flatten(1), attention.attend_by_length(qkv, pack).flatten(1)) <= 2e-6


def test_half_precision_is_rotated_to_the_same_bits_with_a_copy_in_fp32_and_without(monkeypatch):
    ours = torch.randn(700, 3, 4, 64, generator=torch.Generator().manual_seed(1)).half()
    turns = attention.turns(torch.arange(700), torch.linspace(1, 0, 32))
    copied = ours.clone()
    assert attention.multiplies_complex_halves(CPU)
    attention.rotate(ours, turns)
    monkeypatch.setattr(attention, "multiplies_complex_halves", lambda device: False)
    attention.rotate(copied, turns)
    assert torch.equal(ours, copied)


@pytest.mark.parametrize("attend", [attention.attend_flash, attention.attend_flash_by_operator, attention.attend_efficiently])
@pytest.mark.parametrize("heads, head_dim", [(20, 16), (20, 24), (20, 32), (20, 64), (40, 64), (40, 128)])
def test_the_kernels_for_packed_sequences_take_what_we_give_them(attend, heads, head_dim):
    """Without a GPU: torch's own check of arguments, shapes and dtypes, with tensors that have no content."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        qkv = torch.empty(300, 3, heads, head_dim, device="cuda", dtype=torch.float32 if attend is attention.attend_efficiently else torch.float16)
        bounds = torch.empty(3, device="cuda", dtype=torch.int32)
        try:
            out = attend(qkv, PackedTokens(*[bounds] * 4, bounds, [200, 100]))
        except TypeError as error:
            assert attend is attention.attend_flash and torch.__version__ < "2.11", error
            return
    assert out.shape == (300, heads, head_dim) and out.dtype == qkv.dtype and out.stride(-1) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_interleaved_heads_are_rotated_as_fair_esm_rotates_halves(hostile_esm2, dtype):
    rotary = hostile_esm2.layers[0].self_attn.rot_emb
    heads = torch.randn(1500, 3, 2, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted = rotary(heads[:, 0].float().transpose(0, 1), heads[:, 1].float().transpose(0, 1))
    order = attention.interleaved(torch.arange(128), 2).view(2, 64) % 64
    ours = torch.stack([heads[:, 0][..., order[0]], heads[:, 1][..., order[0]], heads[:, 2]], dim=1)
    values = ours[:, 2].clone()
    attention.rotate(ours, attention.turns(torch.arange(1500), rotary.inv_freq))
    bound = {torch.float32: 1e-6, torch.float16: 5e-4}[dtype]
    for part, reference in enumerate(wanted):
        assert relative_l2(ours[:, part].flatten(1), reference.transpose(0, 1)[..., order[0]].flatten(1)) <= bound
    assert torch.equal(ours[:, 2], values)
