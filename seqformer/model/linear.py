"""Products with the weights of linear layers, without gradient, by the best routine at hand.

On a CPU in float32 and bfloat16, oneDNN's kernels take about a fifth less time than `F.linear` for
the sizes of the transformer (its bias and ReLU are part of the product, where `addmm` first fills
the result with the bias); on a GPU the ReLU is part of the product's epilogue. A `SplitParameter`
is multiplied in float32 by split products (`kernels/split_product`).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from .._kernels import kernels

if TYPE_CHECKING:
    from kernels.split_product import SplitWeight

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
HAS_BF16 = HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()
"""Whether oneDNN multiplies bfloat16 on this CPU, by instructions for it or by float32 ones."""


FEW_ROWS = 128
"""Below so many rows neither split products nor oneDNN pay at inference: those of the decoder, in a
frame of a small model."""
SPLIT_CHANNELS = 128
"""From so many inputs and outputs on, split products of a linear layer take less time than those of
`F.linear`."""


class SplitParameter(nn.Parameter):
    """A weight [O, C] for inference on a CPU with AMX: as it is, and in three parts.

    Attributes:
        parts: what split products take; None in a copy.
    """

    parts: SplitWeight | None = None

    @staticmethod
    def pays_for(weight: Tensor) -> bool:
        """Whether split products with a weight [O, C] can be had and are faster."""
        return min(weight.shape) >= SPLIT_CHANNELS and kernels.split_product.fits(weight)

    @classmethod
    def of(cls, weight: Tensor) -> SplitParameter:
        """Of a weight that `kernels.split_product.fits`; shares its memory."""
        parameter = cls(weight.detach(), requires_grad=False)
        parameter.parts = kernels.split_product.split_weight(weight)
        return parameter


def split_of(x: Tensor, weight: Tensor) -> SplitWeight | None:
    """The parts of a weight, where it has some and `x` is to be multiplied by them."""
    if isinstance(weight, SplitParameter) and x.dtype == torch.float32:
        return weight.parts
    return None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """`F.linear(x, weight, bias)`, with `relu` also its ReLU.

    Args:
        x: [..., C].
        weight: [O, C]. bias: [O].

    Returns: [..., O].
    """
    parts = split_of(x, weight)
    if parts is not None and not _has_few_rows(x):
        return kernels.split_product.linear(x, parts, bias, relu)
    rows = x.reshape(-1, x.shape[-1])
    if _is_for_onednn(x, weight) and not _has_few_rows(x):
        kind = "relu" if relu else "none"
        result = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, kind, [], "")
    elif relu and bias is not None and x.device.type == "cuda":
        result = torch._addmm_activation(bias, rows, weight.t())
    else:
        result = F.linear(rows, weight, bias)
        result = result.relu_() if relu else result
    return result.view(*x.shape[:-1], weight.shape[0])


def _has_few_rows(x: Tensor) -> bool:
    """Whether a float32 product at inference is so small that what is around it costs more, and
    least in `F.linear`."""
    is_small = x.dtype == torch.float32 and x.numel() < FEW_ROWS * x.shape[-1]
    return is_small and torch.is_inference_mode_enabled()


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    return bool(
        HAS_ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and HAS_BF16))
        and x.numel() > 0
        and torch.backends.mkldnn.enabled
        and (x.dtype == torch.bfloat16 or not torch.is_autocast_enabled("cpu"))
        and not torch.compiler.is_compiling()
    )


if HAS_ONEDNN:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _flops(x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * prod(x) * weight[0]
