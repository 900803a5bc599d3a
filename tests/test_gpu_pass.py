"""A pass on a GPU where there is none: torch checks every operator's arguments, shapes, dtypes and devices, on tensors without content.

Such tensors refuse to be read: a pass that ends here asks the device for no number, for which it would have to wait.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from protembed import attention, esm2
from protembed.layout import vector_name
from protembed.pointwise import Portable

GPU = torch.device("cuda")
SEQUENCES = ["MKV" * 100, "ACDEFGHIKL" * 4, "ACDEFGHIKL" * 4, "W"]
RESIDUES = sum(map(len, SEQUENCES))
ROWS = dict(mean=len(SEQUENCES), bos=len(SEQUENCES), per_tok=RESIDUES)
WAYS = [
    (torch.float32, attention.attend_by_length),
    (torch.float32, attention.attend_efficiently),
    *((half, attend) for half in (torch.float16, torch.bfloat16) for attend in (attention.attend_flash_by_operator, attention.attend_efficiently)),
]
way = pytest.mark.parametrize("dtype, attend", WAYS, ids=lambda part: getattr(part, "__name__", str(part)))


class Products(TorchDispatchMode):
    """Takes down the dtype of each projection of the layers."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator in (torch.ops.aten.linear.default, torch.ops.aten.addmm.default):
            self.dtypes.append(args[1].dtype)
        return operator(*args, **(kwargs or {}))


def passed(monkeypatch, model, dtype, attend, include, shares=()):
    """Vectors without content of one pass, and the dtypes of its projections."""
    monkeypatch.setattr(esm2, "chosen_attention", lambda *arguments: attend)  # whose trial reads numbers
    monkeypatch.setattr(attention, "multiplies_complex_halves", lambda device: True)
    monkeypatch.setattr(esm2, "chosen_pointwise", lambda *arguments: Portable())  # our kernels take addresses
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # wants a driver
    with FakeTensorMode(allow_non_fake_inputs=True), Products() as products:
        engine = esm2.PackedESM2(model, range(model.num_layers + 1), include, dtype, GPU)
        return engine._forward(engine.tokenizer.pack(SEQUENCES, shares)), products.dtypes


@way
def test_a_pass_on_a_gpu_gives_every_vector_in_fp32_and_asks_for_no_number(monkeypatch, hostile_esm2, dtype, attend):
    vectors, _ = passed(monkeypatch, hostile_esm2, dtype, attend, tuple(ROWS))
    layers = range(hostile_esm2.num_layers + 1)
    assert {name: tuple(rows.shape) for name, rows in vectors.items()} == {
        vector_name(layer, kind): (count, 128) for layer in layers for kind, count in ROWS.items()
    }
    assert all(rows.dtype == torch.float32 and rows.device.type == "cuda" for rows in vectors.values())


@way
def test_its_projections_are_in_the_dtype_that_was_asked_for(monkeypatch, hostile_esm2, dtype, attend):
    _, dtypes = passed(monkeypatch, hostile_esm2, dtype, attend, ["mean"])
    assert dtypes == [dtype] * (4 * hostile_esm2.num_layers)


@way
def test_contacts_and_shares_of_windows_are_made_on_the_gpu_too(monkeypatch, hostile_esm2, dtype, attend):
    shares = [torch.ones(300), None, torch.ones(40), None]
    vectors, _ = passed(monkeypatch, hostile_esm2, dtype, attend, ["mean", "contacts"], shares)
    assert tuple(vectors["contacts"].shape) == (sum(len(sequence) ** 2 for sequence in SEQUENCES), 1)
    assert {rows.device.type for rows in vectors.values()} == {"cuda"}


def test_a_tensor_that_was_left_on_the_host_is_found(monkeypatch, hostile_esm2):
    monkeypatch.setattr(esm2.Norm, "__init__", lambda norm, its, device: vars(norm).update(weight=its.weight, bias=its.bias, eps=its.eps))
    with pytest.raises(RuntimeError, match="device"):
        passed(monkeypatch, hostile_esm2, *WAYS[0], ["mean"])
