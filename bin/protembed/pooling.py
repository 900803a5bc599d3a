"""Means over the residues of each sequence of a pack, without BOS and EOS. Two ways to the same, one per kind of device.

Shapes:  T tokens of the pack   P sequences of the pack   D width
"""

import torch
from torch import Tensor

from protembed.layout import SPECIAL_TOKENS
from protembed.tokens import PackedTokens


def means_one_by_one(stream_TD: Tensor, pack: PackedTokens) -> Tensor:
    """(P, D) as fair-esm's extract script computes them, with torch's cascade sum; a call per sequence, for CPUs."""
    return torch.stack([part[1:-1].mean(0) for part in stream_TD.split(pack.lengths)])


def means_by_segments(stream_TD: Tensor, pack: PackedTokens) -> Tensor:
    """(P, D) in a fixed number of calls, for GPUs. In fp64: segment_reduce adds one after the other, and in fp32 the error of a
    mean would grow with the sequence's length."""
    counts_P = pack.cu_seqlens.diff().long() - SPECIAL_TOKENS
    return torch.segment_reduce(stream_TD[pack.residues_R].double(), "mean", lengths=counts_P, axis=0).float()


def means(stream_TD: Tensor, pack: PackedTokens) -> Tensor:
    """The one that suits the device."""
    return (means_one_by_one if stream_TD.device.type == "cpu" else means_by_segments)(stream_TD, pack)
