"""Attention within each sequence of a pack, and the rotation of its queries and keys. Every way takes and gives the same.

Heads come as one tensor qkv_T3Hd: queries (scaled, softmax scale is 1), keys, values. Queries and keys have their halves
interleaved (see `interleaved`): a pair that is rotated together lies side by side, so that the rotation is one product of
complex numbers in place. Scores do not change when both sides are reordered alike.

Shapes:  T tokens of the pack   H heads   d head width   L tokens of a sequence   S sequences of equal length
"""

import logging
from functools import cache
from itertools import accumulate, groupby
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from protembed.errors import first_line
from protembed.tokens import PackedTokens

log = logging.getLogger("protembed")
# On a CPU, scores of short sequences are computed as a whole and in the processor's caches, by batched products: measured up to
# 1.4 times as fast as torch's flash kernel, whose tiles are then small; beyond this length the kernel is the faster one.
LONGEST_AS_A_WHOLE = 384  # tokens
SCORES_AT_ONCE = 1 << 20  # numbers: 4 MiB
TRIAL_BOUND = {torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}  # on values of up to 4: a few roundings


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection (H * d, ...) with the halves of each head interleaved: 0, d/2, 1, d/2 + 1, ..."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def turns(positions_T: Tensor, inv_freq: Tensor) -> Tensor:
    """Rotations as complex numbers (T, 1, 1, d/2) from fp32 angles (Su et al. 2021; esm/rotary_embedding.py)."""
    angles = positions_T[:, None].float() * inv_freq
    return torch.polar(torch.ones_like(angles), angles)[:, None, None]


def rotate(qkv_T3Hd: Tensor, turns_T11c: Tensor) -> None:
    """Rotate interleaved queries and keys in place, computing in fp32.

    fp16 has complex numbers of its own, whose product with those of fp32 torch computes in fp32 and rounds once: 8 bytes of traffic
    per number instead of the 40 of a way over a copy in fp32, which bfloat16 has to go.
    """
    heads_T2Hd = qkv_T3Hd[:, :2]
    in_place = heads_T2Hd.dtype == torch.float32 or (heads_T2Hd.dtype == torch.float16 and multiplies_complex_halves(heads_T2Hd.device))
    rotated = heads_T2Hd if in_place else heads_T2Hd.float()
    torch.view_as_complex(rotated.unflatten(-1, (-1, 2))).mul_(turns_T11c)
    if not in_place:
        heads_T2Hd.copy_(rotated)


@cache
def multiplies_complex_halves(device: torch.device) -> bool:
    """Whether torch does so on this device, and right: found out by a trial."""
    factors = turns(torch.arange(8, device=device), torch.ones(4, device=device)).flatten()
    halves, wanted = torch.view_as_real(factors).half(), torch.view_as_real(factors * factors)
    try:
        torch.view_as_complex(halves).mul_(factors)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return (halves.float() - wanted).abs().max().item() <= 2e-3  # two roundings of numbers up to 1


def attend_by_length(qkv_T3Hd: Tensor, pack: PackedTokens) -> Tensor:
    """Softmax attention (T, H, d); neighbours of equal length share a call. Any device and dtype."""
    out_THd = torch.empty_like(qkv_T3Hd[:, 0], memory_format=torch.contiguous_format)
    heads, start = qkv_T3Hd.shape[2], 0
    for length, group in groupby(pack.lengths):
        sequences = sum(1 for _ in group)
        whole = length <= LONGEST_AS_A_WHOLE and qkv_T3Hd.device.type == "cpu" and qkv_T3Hd.dtype == torch.float32
        at_once = max(1, SCORES_AT_ONCE // (heads * length**2)) if whole else sequences
        for count in (min(at_once, sequences - done) for done in range(0, sequences, at_once)):
            end = start + count * length
            part_3SHLd = qkv_T3Hd[start:end].unflatten(0, (count, length)).permute(2, 0, 3, 1, 4)
            attended_SHLd = _attend_as_a_whole(part_3SHLd) if whole else F.scaled_dot_product_attention(*part_3SHLd, scale=1.0)
            out_THd[start:end].unflatten(0, (count, length)).copy_(attended_SHLd.transpose(1, 2))
            start = end
    return out_THd


def _attend_as_a_whole(qkv_3SHLd: Tensor) -> Tensor:
    query, key, value = qkv_3SHLd.contiguous().flatten(1, 2)
    scores = torch.bmm(query, key.transpose(1, 2))
    torch.softmax(scores, -1, out=scores)
    return torch.bmm(scores, value).view(qkv_3SHLd.shape[1:])


def attend_flash_by_operator(qkv_T3Hd: Tensor, pack: PackedTokens) -> Tensor:
    """The same by torch's flash kernel for packed sequences. CUDA, fp16 or bf16.

    By the operator behind varlen_attn: that is Python, whose first call brings in torch._dynamo (seconds of each task), and takes no
    scale in torch 2.10.
    """
    longest, bounds = max(pack.lengths), pack.cu_seqlens
    return torch.ops.aten._flash_attention_forward(*qkv_T3Hd.unbind(1), bounds, bounds, longest, longest, 0.0, False, False, scale=1.0)[0]


def attend_flash(qkv_T3Hd: Tensor, pack: PackedTokens) -> Tensor:
    """The same kernel by its public name, of torch >= 2.11: for a torch whose operator takes other arguments."""
    from torch.nn.attention.varlen import varlen_attn

    longest = max(pack.lengths)
    return varlen_attn(*qkv_T3Hd.unbind(1), pack.cu_seqlens, pack.cu_seqlens, longest, longest, scale=1.0)


def attend_efficiently(qkv_T3Hd: Tensor, pack: PackedTokens) -> Tensor:
    """The same by the other kernel of torch's that takes packed sequences: on any CUDA card, in fp32 too."""
    longest, bounds = max(pack.lengths), pack.cu_seqlens
    query, key, value = qkv_T3Hd[None].unbind(2)
    attend = torch.ops.aten._efficient_attention_forward
    return attend(query, key, value, None, bounds, bounds, longest, longest, 0.0, 0, scale=1.0)[0][0]


Attend = Callable[[Tensor, PackedTokens], Tensor]


def chosen_attention(dtype: torch.dtype, device: torch.device, heads: int, head_dim: int) -> Attend:
    """The fastest that runs on this card and gives what a CPU gives, found out by a trial.

    The flash kernel takes half precision only and wants compute capability 8.0; torch raises where it has none to offer.
    """
    if device.type != "cuda":
        return attend_by_length
    reasons = []
    for attend in (attend_efficiently,) if dtype == torch.float32 else (attend_flash_by_operator, attend_flash, attend_efficiently):
        try:
            worst = distance_in_a_trial(attend, dtype, device, heads, head_dim)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ImportError, AttributeError) as error:
            reasons.append(f"{attend.__name__}: {first_line(error)}")
            continue
        if worst <= TRIAL_BOUND[dtype]:
            log.info("attention: %s%s", attend.__name__, "".join(f"; not {reason}" for reason in reasons))
            return attend
        reasons.append(f"{attend.__name__}: off by {worst:.1e}")
    log.warning("no attention over packed sequences on this GPU (%s); sequences of equal length share a call instead, which is slower", "; ".join(reasons))
    return attend_by_length


def distance_in_a_trial(attend: Attend, dtype: torch.dtype, device: torch.device, heads: int, head_dim: int) -> float:
    """The largest difference to attend_by_length's numbers on the CPU in fp32, which are of the order of 1."""
    lengths = [3, 130, 130, 257]
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    pack = PackedTokens(*[bounds] * 4, bounds, lengths)
    qkv_T3Hd = torch.randn(sum(lengths), 3, heads, head_dim, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    return (attend(qkv_T3Hd, pack).float().cpu() - attend_by_length(qkv_T3Hd.float().cpu(), pack)).abs().max().item()
