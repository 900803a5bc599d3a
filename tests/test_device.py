"""What is said of a GPU that cannot be used, and what is chosen for one that can; without one, torch's part is played here."""

from types import SimpleNamespace

import pytest
import torch

from protembed import attention
from protembed.device import usable_device
from protembed.errors import BadOption, Transient
from protembed.esm2 import default_max_tokens


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


@pytest.mark.parametrize("gigabytes, residue_vectors, budget", [(80, 0, 65536), (80, 1, 32768), (80, 33, 1024), (4, 1, 8192), (80, 10_000, 1024)])
def test_a_pack_for_a_gpu_is_what_its_memory_and_what_waits_on_the_host_allow(monkeypatch, gigabytes, residue_vectors, budget):
    """Of 650M."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=gigabytes << 30))
    assert default_max_tokens(torch.device("cuda"), 1280, residue_vectors) == budget


def test_a_card_gets_the_first_kernel_that_gives_a_cpus_numbers(monkeypatch, caplog):
    """The kernels are played here: one that is not there, one that is wrong, one that is right; the trial is as it is on a card."""

    def absent(qkv, pack):
        raise RuntimeError("no kernel image")

    def wrong(qkv, pack):
        return attention.attend_by_length(qkv, pack) * 1.1

    def right(qkv, pack):
        return attention.attend_by_length(qkv.float(), pack).to(qkv.dtype)

    for name, attend in (("attend_flash_by_operator", absent), ("attend_flash", wrong), ("attend_efficiently", right)):
        monkeypatch.setattr(attention, name, attend)
    trial = attention.distance_in_a_trial
    monkeypatch.setattr(attention, "distance_in_a_trial", lambda attend, dtype, device, *shape: trial(attend, dtype, torch.device("cpu"), *shape))
    with caplog.at_level("INFO"):
        assert attention.chosen_attention(torch.float16, torch.device("cuda"), 4, 32) is right
    assert "no kernel image" in caplog.text and "off by" in caplog.text
