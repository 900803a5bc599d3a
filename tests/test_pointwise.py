"""Our CUDA kernels, without a GPU: compiled by the real NVRTC; run from the same source by threads that are pretended."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from protembed import pointwise
from protembed.cuda_kernels import compiled, threads_of
from protembed.shapes import SHAPES
from tests.conftest import BIN, ROOT

GPU = torch.device("cuda")
ARCHITECTURES = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
WITH_DTYPES = [(part, dtype) for part in ARCHITECTURES for dtype in (torch.float16, torch.bfloat16) if dtype == torch.float16 or part >= (8, 0)]
needs_nvrtc = pytest.mark.skipif(torch.version.cuda is None, reason="needs torch's CUDA build")


def on_pretended_gpu(folder, dtype, heads, head_dim):
    """What on_pretended_gpu.py prints; every access to memory beside a tensor ends it."""
    width = heads * head_dim
    shape = {"WIDTH": width, "HEAD_DIM": head_dim, "THREADS": threads_of(width), "BFLOAT16": int(dtype == "bfloat16")}
    flags = ["-std=c++17", "-O1", "-g", "-shared", "-fPIC", "-Wall", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    source = ["-I", BIN / "protembed", "-x", "c++", ROOT / "tests" / "pretended_gpu.cpp", "-o", folder / "libcuda.so.1"]
    subprocess.run(["g++", *flags, *(f"-D{name}={value}" for name, value in shape.items()), *source], check=True)
    asan = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    surroundings = {"LD_LIBRARY_PATH": str(folder), "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": f"{BIN}:{ROOT}"}
    command = [sys.executable, ROOT / "tests" / "on_pretended_gpu.py", dtype, str(heads), str(head_dim)]
    done = subprocess.run(command, env={**os.environ, **surroundings}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_nvrtc
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.parametrize("dtype, heads, head_dim", [("float16", 20, 24), ("bfloat16", 12, 64), ("float16", 2, 4)])
def test_fused_kernels_give_the_numbers_of_torchs_and_touch_no_memory_beside_them(tmp_path, dtype, heads, head_dim):
    found = on_pretended_gpu(tmp_path, dtype, heads, head_dim)
    roundings = {"float16": 1, "bfloat16": 8}[dtype]
    assert found["trial"] <= 1
    assert len(found["to portable"]) == 13
    assert max(found["to portable"].values()) <= 5e-4 * roundings, found
    assert found["to fair-esm"] <= 2e-3 * roundings


@needs_nvrtc
@pytest.mark.parametrize("capability, dtype", WITH_DTYPES, ids=str)
def test_the_kernels_compile_for_every_model_on_every_architecture(capability, dtype):
    for shape in SHAPES.values():
        code = compiled(dtype, shape.width, shape.width // shape.heads, capability)
        assert code.startswith(b"\x7fELF") and b"add_norm" in code and b"rotate" in code


@needs_nvrtc
def test_what_nvrtc_or_the_kernels_do_not_know_is_an_error_in_words():
    with pytest.raises(RuntimeError, match="NVRTC"):
        compiled(torch.float16, 1280, 64, (1, 0))
    with pytest.raises(RuntimeError, match="heads of 10 numbers"):
        compiled(torch.float16, 320, 10, (9, 0))


def test_where_our_kernels_cannot_run_torchs_do_and_the_log_says_why(caplog):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert isinstance(pointwise.chosen_pointwise(torch.float16, GPU, 20, 64), pointwise.Portable)
    assert "several kernels of torch's" in caplog.text


@pytest.mark.parametrize("wrong", [0.1, float("nan")])
def test_kernels_that_are_off_in_the_trial_are_not_used(monkeypatch, caplog, wrong):
    class Off:
        def __init__(self, *shape):
            pass

        def rotate(self, qkv, turns):
            pointwise.rotate(qkv, turns)

        def normed_sum(self, stream, product, norm):
            return norm(stream.add_(product)) + wrong

    monkeypatch.setattr(pointwise, "Fused", Off)
    here, trial = torch.device("cpu"), pointwise.distance_in_a_trial
    monkeypatch.setattr(pointwise, "distance_in_a_trial", lambda tried, dtype, device, *shape: trial(tried, dtype, here, *shape))
    assert isinstance(pointwise.chosen_pointwise(torch.float16, GPU, 20, 16), pointwise.Portable)
    assert "off by" in caplog.text


def test_a_cpu_and_single_precision_have_no_kernels_of_ours():
    for dtype, device in ((torch.float32, GPU), (torch.float16, torch.device("cpu"))):
        assert isinstance(pointwise.chosen_pointwise(dtype, device, 20, 64), pointwise.Portable)
