"""The device that computes: whether it is there, and what its faults mean, however torch and its libraries word them."""

from typing import Callable, TypeVar

import torch

from protembed.errors import BadOption, Transient, first_line

Result = TypeVar("Result")
OUT_OF_MEMORY = ("DefaultCPUAllocator", "could not create a primitive", "Cannot allocate memory", "CUDA error: out of memory", "_ALLOC_FAILED")
HELP = "(which GPU and driver: containers/README.md; --device cpu computes on the CPU)"
DEVICE_FAULT = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")


def usable_device(name: str, dtype: str = "float32") -> torch.device:
    """The device that was asked for, cpu or cuda; never another one instead.

    Transient when it is not there or does not work, BadOption when it cannot compute in this dtype.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise Transient(f"no CUDA GPU is in sight: none is given to this task, or its driver is too old for torch {torch.__version__} {HELP}")
    if name == "cuda":
        try:
            torch.zeros(1, device=name).add_(1).item()
        except RuntimeError as error:
            if "no kernel image" in str(error):
                raise BadOption(f"torch {torch.__version__} has no code for the GPU {torch.cuda.get_device_name()} {HELP}") from error
            raise Transient(f"the GPU cannot be used: {first_line(error)}") from error
    if name == "cuda" and dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise BadOption(f"the GPU {torch.cuda.get_device_name()} does not compute in bfloat16; use --dtype float16")
    return torch.device(name)


def compute_exactly() -> None:
    """No TF32 in fp32 products, and sums in fp32 within those of half precision, also where they are computed in parts."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = matmul.allow_fp16_reduced_precision_reduction = matmul.allow_bf16_reduced_precision_reduction = False


def on_device(work: Callable[..., Result], *arguments: object) -> Result:
    """work(*arguments). OutOfMemoryError however a library words it, Transient for any other fault of the device itself."""
    try:
        return work(*arguments)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, MemoryError) as error:
        if wants_memory(error):
            raise torch.OutOfMemoryError(first_line(error)) from error
        if isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in DEVICE_FAULT):
            raise Transient(f"the device failed: {first_line(error)}") from error
        raise


def wants_memory(error: BaseException) -> bool:
    """Whether it is memory, the device's or the machine's, that was missing; oneDNN says no more than that it has no primitive."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in OUT_OF_MEMORY)
