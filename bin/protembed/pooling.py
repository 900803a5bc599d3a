"""Means over the residues of each sequence of a pack, without BOS and EOS. Two ways to the same, one per kind of device.

Shapes:  T tokens of the pack   P sequences of the pack   D width
"""

import itertools

import torch
from torch import Tensor

from protembed.layout import SPECIAL_TOKENS
from protembed.tokens import PackedTokens


def means_by_length(stream_TD: Tensor, pack: PackedTokens) -> Tensor:
    """(P, D) as fair-esm's extract script computes them, with torch's cascade sum, for CPUs.

    A call for neighbours of one length, which a plan has many of: the same bits as a call for each, ten times as fast for fragments.
    """
    runs = [(length, len(list(neighbours))) for length, neighbours in itertools.groupby(pack.lengths)]
    parts = stream_TD.split([length * count for length, count in runs])
    return torch.cat([part.unflatten(0, (count, length))[:, 1:-1].mean(1) for part, (length, count) in zip(parts, runs)])


def means_by_segments(stream_TD: Tensor, pack: PackedTokens) -> Tensor:
    """(P, D) in a fixed number of calls, for GPUs. In fp64: segment_reduce adds one after the other, and in fp32 the error of a
    mean would grow with the sequence's length. `unsafe`: the lengths are ours, and a look at them would wait for the device."""
    counts_P = pack.cu_seqlens.diff().long() - SPECIAL_TOKENS
    return torch.segment_reduce(stream_TD[pack.residues_R].double(), "mean", lengths=counts_P, axis=0, unsafe=True).float()


def means(stream_TD: Tensor, pack: PackedTokens) -> Tensor:
    """The one that suits the device; where `pack.shares_T` is given, each token is first multiplied by its share."""
    if pack.shares_T is not None:
        stream_TD = stream_TD * pack.shares_T[:, None]
    return (means_by_length if stream_TD.device.type == "cpu" else means_by_segments)(stream_TD, pack)
