"""What is said of a GPU that cannot be used; without one, torch's part is played here."""

import pytest
import torch

from protembed.device import usable_device
from protembed.errors import BadOption, Transient


@pytest.mark.parametrize(
    "fault, kind, says",
    [
        ("CUDA error: no kernel image is available for execution on the device", BadOption, "has no code for the GPU Tesla V100"),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", Transient, "the GPU cannot be used: CUDA error: all"),
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_not_tried_again_and_any_other_fault_is(monkeypatch, fault, kind, says):
    def faulty(*_, **__):
        raise RuntimeError(fault)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    monkeypatch.setattr(torch, "zeros", faulty)
    with pytest.raises(kind, match=says):
        usable_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_no_gpu_is_in_sight_the_driver_is_named_too():
    with pytest.raises(Transient, match="none is given to this task, or its driver is too old for torch"):
        usable_device("cuda")
