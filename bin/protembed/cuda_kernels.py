"""The kernels of pointwise.cu, compiled for the GPU at hand by NVRTC (a fraction of a second; no compiler need be installed).

NVRTC and NVIDIA's bindings for Python come with torch's CUDA builds. torch's own torch.cuda._compile_kernel would want a CUDA toolkit.
"""

import ctypes
from pathlib import Path
from typing import Tuple, Union

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("pointwise.cu")
MOST_THREADS = 160  # of a block: five warps; 320, 640, ... 5120 numbers are divided among them without rest
_KINDS = {int: ctypes.c_void_p, float: ctypes.c_float}


class CudaKernels:
    """For one dtype (float16, bfloat16), width and head width. ImportError or RuntimeError where they cannot be had."""

    def __init__(self, dtype: torch.dtype, device: torch.device, width: int, head_dim: int):
        from cuda.bindings import driver

        self._driver, self.device, self._threads = driver, device, threads_of(width)
        (self._module,) = _values(driver.cuModuleLoadData(compiled(dtype, width, head_dim, torch.cuda.get_device_capability(device))))
        self._functions = {name: _values(driver.cuModuleGetFunction(self._module, name.encode()))[0] for name in ("add_norm", "rotate")}

    def launch(self, name: str, blocks: int, *arguments: Union[Tensor, float]) -> None:
        """Queue a kernel on torch's current stream, one block per token."""
        if not all(part.is_contiguous() for part in arguments if isinstance(part, Tensor)):
            raise ValueError(f"{name} takes numbers that lie side by side only")
        values = tuple(part.data_ptr() if isinstance(part, Tensor) else part for part in arguments)
        kinds = tuple(_KINDS[type(value)] for value in values)
        stream = torch.cuda.current_stream(self.device).cuda_stream
        _values(self._driver.cuLaunchKernel(self._functions[name], blocks, 1, 1, self._threads, 1, 1, 0, stream, (values, kinds), 0))


def threads_of(width: int) -> int:
    """Of a block: whole warps, no more than there are quadruples of numbers in a row."""
    return min(MOST_THREADS, -(-width // 128) * 32)


def compiled(dtype: torch.dtype, width: int, head_dim: int, capability: Tuple[int, int]) -> bytes:
    """Machine code for a compute capability. RuntimeError for one that NVRTC does not know, or a shape that the kernels do not take."""
    from cuda.bindings import nvrtc

    if width % head_dim or head_dim % 4:
        raise RuntimeError(f"heads of {head_dim} numbers in {width}")
    shape = {"WIDTH": width, "HEAD_DIM": head_dim, "THREADS": threads_of(width), "BFLOAT16": int(dtype == torch.bfloat16)}
    options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}", *(f"-D{name}={value}" for name, value in shape.items())]
    (program,) = _values(nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), SOURCE.name.encode(), 0, [], []))
    try:
        _values(nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options]))
        code = bytes(_values(nvrtc.nvrtcGetCUBINSize(program))[0])
        _values(nvrtc.nvrtcGetCUBIN(program, code))  # into the bytes, as NVIDIA's own examples have it
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code


def _values(answer: tuple) -> tuple:
    """What a call has given, without its status. RuntimeError when that is not success."""
    status, *values = answer
    if int(status):
        raise RuntimeError(f"CUDA error: {status.name}")
    return tuple(values)
