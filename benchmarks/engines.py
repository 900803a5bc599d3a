"""The engines that are compared, behind one interface, with one set of weights between them.

An engine says how it would cut a list of sequences into forward passes (`plan`) and runs one pass (`run`: sequences in,
means of the last layer's residues out, fp32 on the CPU). Text to tokens, copies and pooling are inside `run` and count.
Tensors are shared where device and dtype are the same, so that 3B fits where one model and its joined QKV fit.
"""

import importlib.metadata
from typing import List, NamedTuple, Optional, Sequence

import torch
from esm.data import FastaBatchedDataset
from esm.model.esm2 import ESM2
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from protembed.esm2 import PackedESM2, default_max_tokens
from protembed.layout import SPECIAL_TOKENS, vector_name
from protembed.packing import packing_efficiency, plan_packs
from protembed.tokens import Tokenizer

FAIR_ESM_TOKENS = 4096  # --toks_per_batch of fair-esm's extract script, its default
LONGEST_PACK = 1024  # tokens of a pack whose one sequence is over the budget: 1022 residues, BOS, EOS


class Plan(NamedTuple):
    """Forward passes, each a list of row numbers, and how much of what they pay for is real (0..1)."""

    passes: List[List[int]]
    efficiency: float


class Packed:
    """This project, as bin/embed_chunk.py uses it."""

    name = "protembed"
    scale = 1.0  # measured seconds to seconds

    def __init__(self, model: ESM2, dtype: torch.dtype, device: torch.device, max_tokens: int):
        self.dtype, self.vectors = dtype, vector_name(model.num_layers, "mean")
        self.max_tokens = max_tokens or default_max_tokens(device, model.embed_dim)
        self.engine = PackedESM2(model, (model.num_layers,), ("mean",), dtype, device)

    def plan(self, sequences: Sequence[str]) -> Plan:
        """First-fit-decreasing packs."""
        packs = plan_packs([len(sequence) + SPECIAL_TOKENS for sequence in sequences], self.max_tokens)
        return Plan([pack.rows for pack in packs], packing_efficiency(packs, self.max_tokens))

    def run(self, sequences: Sequence[str]) -> Tensor:
        """One pack."""
        return self.engine.embed(sequences)[self.vectors]


def padded_plan(sequences: Sequence[str]) -> Plan:
    """fair-esm's batches, made by its own code the way its extract script calls it: sorted by length, padded."""
    dataset = FastaBatchedDataset(list(map(str, range(len(sequences)))), sequences)
    batches = dataset.get_batch_indices(FAIR_ESM_TOKENS, extra_toks_per_seq=1)
    lengths = [[len(sequences[row]) + SPECIAL_TOKENS for row in batch] for batch in batches]
    return Plan(batches, sum(map(sum, lengths)) / sum(len(batch) * max(batch) for batch in lengths))


class FairEsm:
    """fair-esm, unmodified, with the steps of its extract script between batch and means (it copies the logits too)."""

    name = "fair-esm"
    dtype = torch.float32  # its extract script offers no other
    scale = 1.0
    plan = staticmethod(padded_plan)

    def __init__(self, model: ESM2, device: torch.device):
        self.model, self.device = model.to(device), device
        self.converter = model.alphabet.get_batch_converter()

    @torch.no_grad()
    def run(self, sequences: Sequence[str]) -> Tensor:
        """One padded batch."""
        _, _, tokens_BT = self.converter([("", sequence) for sequence in sequences])
        last = self.model.num_layers
        out = self.model(tokens_BT.to(self.device), repr_layers=[last], return_contacts=False)
        out["logits"].to("cpu")
        hidden_BTD = out["representations"][last].to("cpu")
        return torch.stack([hidden_BTD[row, 1 : len(sequence) + 1].mean(0).clone() for row, sequence in enumerate(sequences)])


class Transformers:
    """transformers' EsmModel with SDPA, on fair-esm's batches; our tokenizer and pooling, which are faster than its own."""

    name = "transformers"
    scale = 1.0
    plan = staticmethod(padded_plan)

    def __init__(self, reference: ESM2, dtype: torch.dtype, device: torch.device):
        self.dtype, self.device = dtype, device
        self.alphabet, self.tokenizer = reference.alphabet, Tokenizer(reference.alphabet)
        self.model = esm_model_of(reference).to(dtype)

    @torch.inference_mode()
    def run(self, sequences: Sequence[str]) -> Tensor:
        """One padded batch."""
        pack = self.tokenizer.pack(sequences)
        tokens_BT = pad_sequence(list(pack.tokens_T.split(pack.lengths)), True, self.alphabet.padding_idx).to(self.device)
        real_BT = tokens_BT != self.alphabet.padding_idx
        hidden_BTD = self.model(input_ids=tokens_BT, attention_mask=real_BT.long()).last_hidden_state.float()
        residues_BT = real_BT & (tokens_BT != self.alphabet.cls_idx) & (tokens_BT != self.alphabet.eos_idx)
        share_BT = residues_BT.float() / residues_BT.sum(1, keepdim=True)
        return (share_BT[:, None] @ hidden_BTD)[:, 0].cpu()


def transformers_version() -> Optional[str]:
    """None where it is not installed."""
    try:
        return importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return None


def esm_model_of(reference: ESM2):
    """EsmModel that computes what `reference` computes, on the same tensors (rotary frequencies as stored, too)."""
    from transformers import EsmConfig, EsmModel

    alphabet = reference.alphabet
    config = EsmConfig(
        vocab_size=len(alphabet), pad_token_id=alphabet.padding_idx, mask_token_id=alphabet.mask_idx, hidden_size=reference.embed_dim,
        num_hidden_layers=reference.num_layers, num_attention_heads=reference.attention_heads, intermediate_size=4 * reference.embed_dim,
        position_embedding_type="rotary", layer_norm_eps=1e-5, token_dropout=True, emb_layer_norm_before=False, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.device("meta"):  # no second set of weights, not even for a moment
        model = EsmModel(config, add_pooling_layer=False).eval()
    model.contact_head = None
    renamed = {
        "self_attn.q_proj": "attention.self.query", "self_attn.k_proj": "attention.self.key", "self_attn.v_proj": "attention.self.value",
        "self_attn.out_proj": "attention.output.dense", "self_attn_layer_norm": "attention.LayerNorm", "final_layer_norm": "LayerNorm",
        "fc1": "intermediate.dense", "fc2": "output.dense",
    }  # fmt: skip
    state = {"embeddings.word_embeddings.weight": reference.embed_tokens.weight}
    for part, tensor in reference.emb_layer_norm_after.state_dict().items():
        state[f"encoder.emb_layer_norm_after.{part}"] = tensor
    for number, layer in enumerate(reference.layers):
        for ours, theirs in renamed.items():
            for part, tensor in layer.get_submodule(ours).state_dict().items():
                state[f"encoder.layer.{number}.{theirs}.{part}"] = tensor
    device, inv_freq = reference.embed_tokens.weight.device, reference.layers[0].self_attn.rot_emb.inv_freq
    for name, buffer in list(model.named_buffers()):  # where they live depends on the version
        owner, _, leaf = name.rpartition(".")
        value = inv_freq.clone() if leaf == "inv_freq" else torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
        setattr(model.get_submodule(owner), leaf, value)
    missing = [name for name in model.load_state_dict(state, strict=False, assign=True).missing_keys if "inv_freq" not in name]
    if missing:
        raise RuntimeError(f"transformers {transformers_version()} names these otherwise than this script expects: {', '.join(missing)}")
    return model.requires_grad_(False)


class Matmuls:
    """Nothing but the model's matrix products at the packs' token counts: what the machine allows.

    A few layers stand for all of them, on one layer's weights and into buffers that are already there. way: "mm" is
    torch's plain product; "onednn" the one that torch keeps for compiled CPU models, faster on some processors.
    """

    LAYERS = 6

    def __init__(self, packed: Packed, model: ESM2, device: torch.device, way: str):
        self.name, self.dtype, self.plan = f"matmul:{way}", packed.dtype, packed.plan
        self.layers = min(self.LAYERS, model.num_layers)
        self.scale = model.num_layers / self.layers
        self.way, self.cuda, width = way, device.type == "cuda", model.embed_dim
        self.shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
        make = {"dtype": packed.dtype, "device": device}
        numbers = 4 * width * max(packed.max_tokens, LONGEST_PACK)
        self.source, self.target = torch.randn(numbers, **make), torch.empty(numbers, **make)
        self.weights = [torch.randn(out, into, **make) for into, out in self.shapes]
        if way == "onednn":
            self.weights = [torch.ops.mkldnn._reorder_linear_weight(weight, packed.max_tokens) for weight in self.weights]

    @torch.inference_mode()
    def run(self, sequences: Sequence[str]) -> None:
        """The products of one pack, on random numbers."""
        tokens = sum(map(len, sequences)) + SPECIAL_TOKENS * len(sequences)
        for _ in range(self.layers):
            for (into, out), weight in zip(self.shapes, self.weights):
                source_TI = self.source[: tokens * into].view(tokens, into)
                if self.way == "onednn":
                    torch.ops.mkldnn._linear_pointwise(source_TI, weight, None, "none", [], "")
                else:
                    torch.mm(source_TI, weight.t(), out=self.target[: tokens * out].view(tokens, out))
        if self.cuda:
            torch.cuda.synchronize()


def build_engines(model: ESM2, dtypes: Sequence[torch.dtype], device: torch.device, max_tokens: int) -> list:
    """All engines that run here, ours first. `model` is on the CPU in fp32 and belongs to the engines afterwards."""
    packed = [Packed(model, dtype, device, max_tokens) for dtype in dtypes]
    reference = FairEsm(model, device)
    rivals = [Transformers(model, dtype, device) for dtype in dtypes] if transformers_version() else []
    limits = [Matmuls(engine, model, device, "mm") for engine in packed]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        limits += [Matmuls(engine, model, device, "onednn") for engine in packed if engine.dtype != torch.float16]
    return [*packed, reference, *rivals, *limits]
