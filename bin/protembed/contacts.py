"""Contacts as fair-esm predicts them (esm/modules.py, ContactPredictionHead), beside a packed forward pass.

Every head's attention map without BOS and EOS, symmetrised, corrected for the average product, is one feature of a logistic
regression over all layers and heads. The regression is a sum over heads, so no more than one layer's maps of one sequence are
ever held; the pass itself goes on with the kernel that it had.

Shapes:  T tokens of the pack   H heads   d head width   L tokens of a sequence   n its residues (L - 2)
"""

from typing import List

import torch
from torch import Tensor, nn

from protembed.layout import CONTACTS_MAX_RESIDUES, SPECIAL_TOKENS
from protembed.tokens import PackedTokens


class ContactRegression:
    """The weights of the regression: one for each head of each layer, and a bias."""

    def __init__(self, regression: nn.Linear, layers: int, device: torch.device):
        self.weight_LH = regression.weight.float().view(layers, -1).to(device)
        self.bias = regression.bias.float().to(device)


class PackContacts:
    """The contacts of the sequences of one pack that are not too long, layer by layer."""

    def __init__(self, regression: ContactRegression, pack: PackedTokens):
        self._regression, self._pack = regression, pack
        self._is_short = [length - SPECIAL_TOKENS <= CONTACTS_MAX_RESIDUES for length in pack.lengths]
        self._logits: List[Tensor] = []

    def add(self, layer: int, qkv_T3Hd: Tensor) -> None:
        """Take a layer's rotated queries and keys; layers count from 0."""
        weight_H = self._regression.weight_LH[layer]
        parts = [part for part, short in zip(qkv_T3Hd.split(self._pack.lengths), self._is_short) if short]
        logits = [_weighted(part_L3Hd, weight_H) for part_L3Hd in parts]
        self._logits = [sum_nn + logit_nn for sum_nn, logit_nn in zip(self._logits, logits)] if self._logits else logits

    def result(self) -> Tensor:
        """(sum of n^2, 1) fp32: probabilities, the matrices of all sequences row by row, end to end."""
        flat = [torch.sigmoid(logit_nn + self._regression.bias).flatten() for logit_nn in self._logits]
        return torch.cat([*flat, self._regression.bias.new_empty(0)])[:, None]


def _weighted(part_L3Hd: Tensor, weight_H: Tensor) -> Tensor:
    """(n, n): the features of one layer times their weights, summed."""
    query_HLd, key_HLd = part_L3Hd[:, :2].float().permute(1, 2, 0, 3)
    maps_Hnn = torch.softmax(query_HLd @ key_HLd.transpose(1, 2), -1)[:, 1:-1, 1:-1]
    maps_Hnn = maps_Hnn + maps_Hnn.transpose(1, 2)
    rows_Hn, columns_Hn = maps_Hnn.sum(-1), maps_Hnn.sum(-2)
    averages_Hn = rows_Hn * (weight_H / rows_Hn.sum(-1))[:, None]
    return torch.einsum("h,hij->ij", weight_H, maps_Hnn) - averages_Hn.T @ columns_Hn
