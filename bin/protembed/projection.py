"""Matrix products of the model with what follows them: bias, gelu, residual sum. Two ways to the same result.

Portable: cuBLAS or MKL for the product, then one pass over memory for each thing that follows; gelu and sum compute in fp32.
oneDNN (CPU, fp32): product and what follows it in one pass, on weights laid out for it once.
"""

from typing import Callable, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Inductor's own way to oneDNN's fused products. Private to torch: where it is missing, the portable way does the work.
_MKLDNN = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
_FUSED, _LAID_OUT = (getattr(_MKLDNN, name, None) for name in ("_linear_pointwise", "_reorder_linear_weight"))
TYPICAL_ROWS = 4096  # tokens of a pack, for oneDNN's choice of a layout; any other number works too

Prepare = Optional[Callable[[Tensor], Tensor]]


class Projection:
    """y = x W^T + b for x (T, in) in the weights' dtype.

    parts are laid end to end. prepare: what is done to the rows of weight and bias of each, once and before the rounding to `dtype`.
    """

    def __init__(self, *parts: nn.Linear, dtype: torch.dtype, device: torch.device, prepare: Sequence[Prepare] = ()):
        prepare = prepare or [None] * len(parts)
        self.weight, self.bias = (
            torch.cat([(change(rows) if change else rows).to(device, dtype) for rows, change in zip(tensors, prepare)])
            for tensors in zip(*((part.weight, part.bias) for part in parts))
        )
        self.fused = None not in (_FUSED, _LAID_OUT) and device.type == "cpu" and dtype == torch.float32
        if self.fused:
            self.weight = _LAID_OUT(self.weight, TYPICAL_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        """The product, in the weights' dtype."""
        if self.fused:
            return _FUSED(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)

    def then_gelu(self, x: Tensor) -> Tensor:
        """gelu (by erf; torch computes it in fp32 for half precision) of the product, in the weights' dtype."""
        if self.fused:
            return _FUSED(x, self.weight, self.bias, "gelu", [], "none")
        return F.gelu(F.linear(x, self.weight, self.bias))

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual (fp32) plus the product, in fp32."""
        if self.fused:
            return _FUSED.binary(x, residual, self.weight, self.bias, "add")
        return residual + F.linear(x, self.weight, self.bias)
