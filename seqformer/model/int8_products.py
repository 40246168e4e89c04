"""Convolutions and linear layers on 8-bit integers, by oneDNN: CPUs multiply those fastest.

A number is kept as an integer q of 0..255 that stands for (q - zero) * step. A layer's inputs share
one step and zero, from ranges that were measured beforehand (`int8_ranges.py`). A weight is an
integer of -127..127, with a step per output. Products are summed exactly, in 32 bits. The sum times
its steps, plus the bias, is a float32, and what follows in the layer (sum, ReLU) is done to that.

The operators are PyTorch's own, made for its compiler and looked up when they are needed.
"""

from __future__ import annotations

import platform
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_OPERATORS = ("qconv_prepack", "qconv2d_pointwise", "qlinear_prepack", "qlinear_pointwise")
MOST_SHAPES = 4
"""Weights of a convolution are laid out for the shape of its input, and kept for so many."""


def why_not_available() -> str | None:
    """Why there are no 8-bit products here; None where there are.

    Without VNNI a CPU adds pairs of products in 16 bits, which is not enough for them.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not _has_vnni():
        return "it needs a CPU with AVX512-VNNI, AVX-VNNI or AMX-INT8"
    has_operators = all(hasattr(torch.ops.onednn, name) for name in _OPERATORS)
    if not has_operators or not torch.backends.mkldnn.is_available():
        return f"PyTorch {torch.__version__} has no 8-bit convolutions of oneDNN"
    if not torch.backends.mkldnn.enabled:
        return "oneDNN is switched off (torch.backends.mkldnn)"
    return None


def _has_vnni() -> bool:
    """Whether the CPU has instructions for sums of four 8-bit products."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        has = capabilities()
        return any(has.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    is_supported = getattr(torch.cpu, "_is_vnni_supported", None)
    return is_supported is not None and bool(is_supported())


@dataclass(frozen=True)
class Scale:
    """Integers q of 0..255 that stand for (q - zero) * step."""

    step: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> Scale:
        """For numbers from `low` to `high`; 0 is always among them, and exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = (high - low) / 255 or 1.0
        return cls(step, round(-low / step))


def to_integers(x: Tensor, scale: Scale) -> Tensor:
    """A float tensor as uint8 of the same layout: rounded to nearest, clamped where outside."""
    middle = torch.tensor(scale.zero + 0.5)  # the conversion cuts off
    return torch.add(middle, x.float(), alpha=1 / scale.step).clamp_(0, 255).to(torch.uint8)


def to_floats(x: Tensor, scale: Scale, dtype: torch.dtype) -> Tensor:
    """The numbers that a uint8 tensor with zero 0 stands for, in the same layout."""
    assert scale.zero == 0
    return x.to(dtype).mul_(scale.step)


class IntegerWeight(nn.Module):
    """A weight [O, ...] as integers.

    Attributes:
        values: [O, ...] int8.
        steps: [O] float32, of each output. zeros: [O], all 0.
        bias: [O] float32.
    """

    steps: Tensor
    zeros: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        steps = weight.abs().flatten(1).amax(1) / 127
        steps = torch.where(steps > 0, steps, 1.0)
        shape = (-1, *(1 for _ in weight.shape[1:]))
        self.values = (weight / steps.view(shape)).round().to(torch.int8)
        bias = steps.new_zeros(len(steps)) if bias is None else bias.detach().float()
        for name, tensor in (("steps", steps), ("bias", bias)):
            self.register_buffer(name, tensor, persistent=False)
        self.register_buffer("zeros", torch.zeros(len(steps), dtype=torch.long), persistent=False)


class Int8Conv2d(nn.Module):
    """An `nn.Conv2d` from uint8 to uint8.

    Args:
        conv: with zero padding.
        source: of its input; zero is 0, so that padding stays nothing.
        target: of its result.
        relu: clamp the result below at 0.
    """

    def __init__(self, conv: nn.Conv2d, source: Scale, target: Scale, relu: bool = False) -> None:
        super().__init__()
        assert isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"
        assert source.zero == 0
        self.integers = IntegerWeight(conv.weight, conv.bias)
        self.source, self.target, self._relu = source, target, "relu" if relu else "none"
        sizes = (conv.stride, conv.padding, conv.dilation)
        self._geometry = (*(list(size) for size in sizes), conv.groups)
        self._packed: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> [n, O, h', w'], channels last."""
        return torch.ops.onednn.qconv2d_pointwise(
            *self._arguments(x), *self._target, self._relu, [], ""
        )

    def add_to(self, other: Tensor, scale: Scale, x: Tensor) -> Tensor:
        """`relu(other + conv(x))`, rounded once; `other` [n, O, h', w'] of a `scale` has channels
        last. The operator changes a copy of it."""
        return torch.ops.onednn.qconv2d_pointwise.binary(
            *self._arguments(x, other), *self._target, scale.step, scale.zero,
            "sum", 1.0, "relu", [], "",
        )  # fmt: skip

    def _arguments(self, x: Tensor, *other: Tensor) -> tuple[Any, ...]:
        """All of an operator's up to those of its result."""
        weight = self.integers
        source = (x, self.source.step, self.source.zero)
        steps = (weight.steps, weight.zeros)
        return (*source, self._weight_for(x), *steps, *other, weight.bias, *self._geometry)

    @property
    def _target(self) -> tuple[float, int, torch.dtype]:
        return self.target.step, self.target.zero, torch.uint8

    def _weight_for(self, x: Tensor) -> Tensor:
        """The weight in the order that oneDNN wants for an input; in another it would be brought
        into that one in every call, which takes longer than the products."""
        shape = tuple(x.shape)
        packed = self._packed.get(shape)
        if packed is None:
            source = (self.source.step, self.source.zero)
            packed = torch.ops.onednn.qconv_prepack(
                self.integers.values, self.integers.steps, *source, *self._geometry, list(shape)
            )
            self._packed[shape] = packed
            if len(self._packed) > MOST_SHAPES:
                self._packed.popitem(last=False)
        return packed


class Int8Linear(nn.Module):
    """An `nn.Linear` whose products are of integers, float32 before and after.

    Args:
        linear: [O, C].
        source: of its input.
        target: of its result where that is wanted as integers, after ReLU.
    """

    def __init__(self, linear: nn.Linear, source: Scale, target: Scale | None = None) -> None:
        super().__init__()
        self.integers = IntegerWeight(linear.weight, linear.bias)
        self.source, self.target = source, target
        self._packed = torch.ops.onednn.qlinear_prepack(self.integers.values, None)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] float32, or uint8 of `source` -> [..., O] float32, or uint8 of `target`."""
        rows = x.reshape(-1, x.shape[-1])
        rows = rows if rows.dtype == torch.uint8 else to_integers(rows, self.source)
        result = torch.ops.onednn.qlinear_pointwise(
            *(rows, self.source.step, self.source.zero),
            *(self._packed, self.integers.steps, self.integers.zeros, self.integers.bias),
            *self._target,
        )
        return result.view(*x.shape[:-1], result.shape[-1])

    @property
    def _target(self) -> tuple[Any, ...]:
        if self.target is None:
            return 1.0, 0, torch.float32, "none", [], ""
        return self.target.step, self.target.zero, torch.uint8, "relu", [], ""
