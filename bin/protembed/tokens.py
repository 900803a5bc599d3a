"""Sequences to the token numbers of one pack, by table look-up on bytes. Knows nothing of the model but its alphabet."""

from typing import List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from protembed.layout import SPECIAL_TOKENS


class PackedTokens(NamedTuple):
    """The tokens of one pack and where its sequences lie."""

    tokens_T: Tensor  # int64
    positions_T: Tensor  # int64, restarting at 0 with each sequence
    starts_P: Tensor  # int64, index of each BOS
    residues_R: Tensor  # int64, indices of the tokens that are residues
    cu_seqlens: Tensor  # int32 (P + 1,), as the flash kernels want it
    lengths: List[int]  # tokens of each sequence, BOS and EOS included
    shares_T: Optional[Tensor] = None  # fp32, what each token counts in the mean; None: all alike

    def to(self, device: torch.device) -> "PackedTokens":
        """Copy the tensors to `device`; to a GPU from pinned memory, without waiting for the copy."""
        if device.type == "cpu":
            return self
        return PackedTokens(*(part.pin_memory().to(device, non_blocking=True) if isinstance(part, Tensor) else part for part in self))


class Tokenizer:
    """Letters to fair-esm's token numbers by table look-up on bytes; the table is read from its alphabet."""

    def __init__(self, alphabet):
        self.bos, self.eos = alphabet.cls_idx, alphabet.eos_idx
        self._token_of = np.full(256, -1, dtype=np.int64)
        for token in alphabet.all_toks:
            if len(token) == 1:
                self._token_of[ord(token)] = alphabet.get_idx(token)

    def pack(self, sequences: Sequence[str], shares: Sequence[Optional[Tensor]] = ()) -> PackedTokens:
        """Lay sequences end to end, each between BOS and EOS. ValueError for a letter outside the alphabet.

        shares: per sequence (residues,) fp32, what its residues count in the mean; None or nothing at all: 1 each.
        """
        lengths = [len(sequence) + SPECIAL_TOKENS for sequence in sequences]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        letters = np.frombuffer("".join(f"\0{sequence}\0" for sequence in sequences).encode("latin-1"), dtype=np.uint8)
        tokens = self._token_of[letters]
        is_residue = np.ones(len(tokens), dtype=bool)
        is_residue[starts] = is_residue[ends - 1] = False
        tokens[starts], tokens[ends - 1] = self.bos, self.eos
        if tokens.min() < 0:
            raise ValueError(f"letter {chr(letters[tokens.argmin()])!r} is not in the alphabet")
        positions = np.arange(len(tokens)) - np.repeat(starts, lengths)
        cu_seqlens = np.concatenate([[0], ends]).astype(np.int32)
        arrays = (tokens, positions, starts, np.flatnonzero(is_residue), cu_seqlens)
        return PackedTokens(*map(torch.from_numpy, arrays), lengths, _laid_end_to_end(shares, lengths))


def _laid_end_to_end(shares: Sequence[Optional[Tensor]], lengths: Sequence[int]) -> Optional[Tensor]:
    if all(share is None for share in shares):
        return None
    laid_T = torch.ones(sum(lengths))
    for part, share in zip(laid_T.split(list(lengths)), shares):
        if share is not None:
            part[1:-1] = share
    return laid_T
