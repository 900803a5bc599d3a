"""What is done number by number between a layer's products: rotation of queries and keys, residual sum and layer norm. Two ways to the same.

Portable: torch's operators, on a CPU the sum within the product. CUDA in half precision: our kernels (pointwise.cu), where a trial shows
that they run and are right. By the bytes that are moved they save some 12 % of a pass of 650M.

Shapes:  T tokens of the pack   D width   H heads   d = D/H
"""

import logging
from typing import Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protembed.attention import TRIAL_BOUND, rotate, turns
from protembed.cuda_kernels import CudaKernels
from protembed.errors import first_line
from protembed.projection import Projection

log = logging.getLogger("protembed")
SUM_BOUND = 1e-5  # on sums of up to 8 in fp32


class Norm:
    """Layer norm in fp32."""

    def __init__(self, norm: nn.LayerNorm, device: torch.device):
        self.weight, self.bias, self.eps = norm.weight.float().to(device), norm.bias.float().to(device), norm.eps

    def __call__(self, stream_TD: Tensor) -> Tensor:
        return F.layer_norm(stream_TD, self.weight.shape, self.weight, self.bias, self.eps)


class Portable:
    """By torch, on any device and in any dtype."""

    def rotate(self, qkv_T3Hd: Tensor, turns_T11c: Tensor) -> None:
        """See attention.rotate."""
        rotate(qkv_T3Hd, turns_T11c)

    def add_and_norm(self, stream_TD: Tensor, projection: Projection, x: Tensor, norm: Norm) -> Tuple[Tensor, Tensor]:
        """The residual stream (fp32) plus the product of x, and its norm in x's dtype. The stream that was given may be overwritten."""
        stream_TD = projection.added_to(stream_TD, x)
        return stream_TD, norm(stream_TD).to(x.dtype)


class Fused:
    """By our kernels, one for each. CUDA, float16 or bfloat16."""

    def __init__(self, dtype: torch.dtype, device: torch.device, heads: int, head_dim: int):
        self._kernels = CudaKernels(dtype, device, heads * head_dim, head_dim)

    def rotate(self, qkv_T3Hd: Tensor, turns_T11c: Tensor) -> None:
        """As Portable's."""
        self._kernels.launch("rotate", len(qkv_T3Hd), qkv_T3Hd, turns_T11c)

    def add_and_norm(self, stream_TD: Tensor, projection: Projection, x: Tensor, norm: Norm) -> Tuple[Tensor, Tensor]:
        """As Portable's, in the stream that was given."""
        return stream_TD, self.normed_sum(stream_TD, projection(x), norm)

    def normed_sum(self, stream_TD: Tensor, product_TD: Tensor, norm: Norm) -> Tensor:
        """Adds product to stream, in place; the norm of the sum, in product's dtype."""
        normed_TD = torch.empty_like(product_TD)
        self._kernels.launch("add_norm", len(stream_TD), stream_TD, product_TD, norm.weight, norm.bias, normed_TD, norm.eps)
        return normed_TD


Pointwise = Union[Portable, Fused]


def chosen_pointwise(dtype: torch.dtype, device: torch.device, heads: int, head_dim: int) -> Pointwise:
    """Our kernels where they run and give what a CPU gives, found out by a trial."""
    if device.type != "cuda" or dtype == torch.float32:
        return Portable()
    try:
        fused = Fused(dtype, device, heads, head_dim)
        off = distance_in_a_trial(fused, dtype, device, heads, head_dim)
    except torch.OutOfMemoryError:
        raise
    except (ImportError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        reason = first_line(error)
    else:
        if off <= 1:
            log.info("sums, norms and rotations: fused kernels")
            return fused
        reason = f"off by {off:.1e} times the bound"
    log.warning("sums, norms and rotations by several kernels of torch's each, which is slower (%s)", reason)
    return Portable()


def distance_in_a_trial(fused: Fused, dtype: torch.dtype, device: torch.device, heads: int, head_dim: int) -> float:
    """The largest difference to torch's numbers on the CPU in fp32, over what is allowed."""
    width, tokens, generator = heads * head_dim, 7, torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    norm = nn.LayerNorm(width)
    norm.weight.data, norm.bias.data = drawn(width), drawn(width)
    stream_TD, product_TD, qkv_T3Hd = drawn(tokens, width), drawn(tokens, width).to(dtype), drawn(tokens, 3, heads, head_dim).to(dtype)
    turns_T11c = turns(torch.arange(tokens), torch.linspace(1, 0.01, head_dim // 2))
    sum_TD, rotated_T3Hd = stream_TD + product_TD, qkv_T3Hd.float()
    rotate(rotated_T3Hd, turns_T11c)
    stream_TD, qkv_T3Hd = stream_TD.to(device), qkv_T3Hd.to(device)
    normed_TD = fused.normed_sum(stream_TD, product_TD.to(device), Norm(norm, device))
    fused.rotate(qkv_T3Hd, turns_T11c.to(device))
    bound = TRIAL_BOUND[dtype]
    pairs = ((stream_TD, sum_TD, SUM_BOUND), (normed_TD, Norm(norm, sum_TD.device)(sum_TD), bound), (qkv_T3Hd, rotated_T3Hd, bound))
    return torch.stack([(ours.float().cpu() - wanted).abs().max() / allowed for ours, wanted, allowed in pairs]).max().item()
