"""ESM-2 over packed sequences: no padding, and fair-esm's numbers.

One forward pass takes sequences laid end to end. Matrix products, norms and activations see one long row of tokens;
attention, rotary positions and pooling see each sequence alone. What must be as in fair-esm (esm/model/esm2.py, 2.0.0):
token-dropout scale 0.88 per sequence, the *stored* rotary frequencies with angles in fp32, q scaled before the rotation,
erf-gelu, the final layer norm on the last layer only, layers numbered 0..N, means without BOS and EOS.

Half precision: weights and matrix products in half, everything else (residual stream, rotary, norms, gelu, pooling) in
fp32. Softmax is fp32 inside the attention kernels.

Shapes:  T tokens of the pack   P sequences of the pack   R residues of the pack (T - 2P)   D width   H heads   d = D/H
"""

from typing import Optional, Sequence, Tuple

import torch
from esm.model.esm2 import ESM2
from torch import Tensor

from protembed.allocation import free_memory
from protembed.attention import Attend, chosen_attention, interleaved, turns
from protembed.contacts import ContactRegression, PackContacts
from protembed.layout import CONTACTS, vector_name
from protembed.pointwise import Norm, Pointwise, chosen_pointwise
from protembed.pooling import means
from protembed.projection import Projection
from protembed.tokens import PackedTokens, Tokenizer
from protembed.underway import Underway, Vectors

# Inference sees no <mask>, so fair-esm's correction (esm2.py, token_dropout) is the constant 1 - 0.15 * 0.8.
TOKEN_DROPOUT_SCALE = 1 - 0.15 * 0.8

BYTES_PER_TOKEN = 80  # and unit of width: the peak of a pass on a CPU, measured with 8M and 35,000 residues
MOST_BYTES_OF_A_PASS = 1 << 28  # of residues' vectors, on their way from a GPU
UNDOUBTED = 1 << 29  # bytes: what needs less is tried, whatever the machine says of its memory


def default_max_tokens(device: torch.device, width: int, residue_vectors: int = 0) -> int:
    """Pack budget for a device: a power of two that depends on its size, not on what is free, so that a resume packs alike.

    On a CPU larger packs leave the caches (measured: benchmarks/). On a GPU a token takes about 64 bytes per unit of
    width at the widest point of a layer; a quarter of the memory is planned for it. There, vectors of residues, so many of each,
    wait in the host's memory, of some four passes at once.
    """
    if device.type == "cpu":
        return 4096
    fitting = torch.cuda.get_device_properties(device).total_memory // 4 // (64 * width)
    waiting = MOST_BYTES_OF_A_PASS // (4 * width * residue_vectors) if residue_vectors else fitting
    return min(65536, 1 << max(10, min(fitting, waiting).bit_length() - 1))


class Layer:
    """One transformer block of fair-esm's, its q, k and v projections joined and q's scale folded into its weights.

    following: the block after it, whose first norm is this one's last step; None after the last.
    """

    def __init__(self, layer, following, pointwise: Pointwise, dtype: torch.dtype, device: torch.device):
        attention = layer.self_attn
        self.heads, self.head_dim, self.pointwise = attention.num_heads, attention.head_dim, pointwise
        where = {"dtype": dtype, "device": device}

        def paired(rows: Tensor) -> Tensor:
            return interleaved(rows, attention.num_heads)

        def scaled(rows: Tensor) -> Tensor:  # in fp32, before the rounding to dtype
            return paired(rows.float() * attention.head_dim**-0.5)

        self.qkv = Projection(attention.q_proj, attention.k_proj, attention.v_proj, prepare=(scaled, paired, None), **where)
        self.out, self.up, self.down = (Projection(part, **where) for part in (attention.out_proj, layer.fc1, layer.fc2))
        self.mlp_norm = Norm(layer.final_layer_norm, device)
        self.norm_after = Norm(following.self_attn_layer_norm, device) if following else None

    def __call__(self, stream_TD: Tensor, normed_TD: Tensor, turns_T11c: Tensor, pack: PackedTokens, attend: Attend) -> Tuple[Tensor, Optional[Tensor]]:
        """The residual stream after this block, and its norm for the block that follows. The stream that was given may be overwritten."""
        qkv_T3Hd = self.qkv(normed_TD).unflatten(1, (3, self.heads, self.head_dim))
        self.pointwise.rotate(qkv_T3Hd, turns_T11c)
        stream_TD, normed_TD = self.pointwise.add_and_norm(stream_TD, self.out, attend(qkv_T3Hd, pack).flatten(1), self.mlp_norm)
        inner_TD = self.up.then_gelu(normed_TD)
        if self.norm_after is None:
            return self.down.added_to(stream_TD, inner_TD), None
        return self.pointwise.add_and_norm(stream_TD, self.down, inner_TD, self.norm_after)


class PackedESM2:
    """The model, ready to embed packs.

    model: fair-esm's ESM2 on the CPU, in any dtype. layers: which representations, 0..N. include: of mean, bos, per_tok, contacts.
    """

    def __init__(self, model: ESM2, layers: Sequence[int], include: Sequence[str], dtype: torch.dtype, device: torch.device):
        self.wanted, self.include, self.dtype, self.device = set(layers), tuple(include), dtype, device
        self.tokenizer = Tokenizer(model.alphabet)
        self.table = (model.embed_tokens.weight.float() * model.embed_scale).to(device)
        if model.token_dropout:
            self.table = self.table * TOKEN_DROPOUT_SCALE
        self.inv_freq = model.layers[0].self_attn.rot_emb.inv_freq.float().to(device)
        self.contacts = ContactRegression(model.contact_head.regression, model.num_layers, device) if CONTACTS in include else None
        needed = model.num_layers if self.contacts else max(layers)
        heads, head_dim = model.attention_heads, model.embed_dim // model.attention_heads
        pointwise = chosen_pointwise(dtype, device, heads, head_dim)
        blocks = model.layers[:needed]  # those above are for nothing
        self.layers = [Layer(block, following, pointwise, dtype, device) for block, following in zip(blocks, [*blocks[1:], None])]
        self.layer_count = model.num_layers
        self.fitted = UNDOUBTED  # what a pass has had before, this process still has
        self.first_norm, self.last_norm = Norm(model.layers[0].self_attn_layer_norm, device), Norm(model.emb_layer_norm_after, device)
        self.attend = chosen_attention(dtype, device, heads, head_dim)

    def embed(self, sequences: Sequence[str]) -> Vectors:
        """Vectors of one pack, fp32 on the CPU, by name: mean and bos (P, D), per_tok (R, D), rows as in `sequences`.

        per_tok lays the residues of all sequences end to end, contacts (sum of residues^2, 1) their matrices.
        """
        return self.begin(sequences).result()[0]

    def begin(self, sequences: Sequence[str], shares: Sequence[Optional[Tensor]] = ()) -> Underway:
        """The same without waiting for the device. shares: see Tokenizer.pack.

        OutOfMemoryError for a sequence that would not fit: on a CPU the kernel would end the process without a word.
        """
        needed = BYTES_PER_TOKEN * self.table.shape[1] * len(sequences[0]) if len(sequences) == 1 and self.device.type == "cpu" else 0
        if needed > self.fitted and needed > (free := free_memory()):
            raise torch.OutOfMemoryError(f"about {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
        underway = Underway(lambda: self._forward(self.tokenizer.pack(sequences, shares)), self.device)
        self.fitted = max(self.fitted, needed)
        return underway

    @torch.inference_mode()
    def _forward(self, pack: PackedTokens) -> Vectors:
        pack = pack.to(self.device)
        turns_T11c = turns(pack.positions_T, self.inv_freq)
        stream_TD = self.table[pack.tokens_T]
        vectors: Vectors = {}
        self._take(vectors, 0, stream_TD, pack)
        contacts = PackContacts(self.contacts, pack) if self.contacts else None
        normed_TD = self.first_norm(stream_TD).to(self.dtype) if self.layers else None
        for number, layer in enumerate(self.layers, 1):
            stream_TD, normed_TD = layer(stream_TD, normed_TD, turns_T11c, pack, self._watched(contacts, number - 1))
            last = number == self.layer_count
            self._take(vectors, number, self.last_norm(stream_TD) if last else stream_TD, pack)
        return dict(vectors, **{CONTACTS: contacts.result()}) if contacts else vectors

    def _watched(self, contacts: Optional[PackContacts], layer: int) -> Attend:
        def attend(qkv_T3Hd: Tensor, pack: PackedTokens) -> Tensor:
            contacts.add(layer, qkv_T3Hd)
            return self.attend(qkv_T3Hd, pack)

        return attend if contacts else self.attend

    def _take(self, vectors: Vectors, layer: int, stream_TD: Tensor, pack: PackedTokens) -> None:
        if layer not in self.wanted:
            return
        if "mean" in self.include:
            vectors[vector_name(layer, "mean")] = means(stream_TD, pack)
        if "bos" in self.include:
            vectors[vector_name(layer, "bos")] = stream_TD[pack.starts_P]
        if "per_tok" in self.include:
            vectors[vector_name(layer, "per_tok")] = stream_TD[pack.residues_R]
