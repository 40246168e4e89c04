"""The blocks by the C code (`cpu.c`). Arguments as in `__init__.py`, checked there."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..c_library import library, why_not

Layer = tuple[Tensor, Tensor]
"""Weight [O, C] and bias [O] of a linear layer, float32 and contiguous."""
Norm = tuple[Tensor, Tensor, float]
"""Weight [C], bias [C] and eps of a layer norm."""


class _Layer(ctypes.Structure):
    """`Layer` of cpu.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
    ]


class _Norm(ctypes.Structure):
    """`Norm` of cpu.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("gamma", "beta")),
        ("eps", ctypes.c_float),
    ]


_Pointer, _Number = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "mlp": (_Pointer, _Number, _Pointer, _Number, _Pointer, _Number, _Pointer),
    "linears_of_sum": (
        *(_Pointer, _Pointer, _Number, _Number, _Pointer, _Number, _Pointer, _Pointer),
    ),
    "linear_norm": (_Pointer, _Pointer, _Number, _Pointer, _Pointer, _Pointer),
    "feed_forward": (_Pointer, _Number, _Pointer, _Pointer, _Pointer, _Pointer),
    "attend": (
        *(_Pointer, _Pointer, _Number, _Number, _Number),
        *(_Pointer, _Pointer, _Pointer, _Pointer, _Pointer),
    ),
}


def code() -> ctypes.CDLL | None:
    """The C code; None where it cannot be compiled."""
    compiled = library("few_rows", torch.float32)
    if compiled is not None and compiled.attend.argtypes is None:
        for name, types in _ARGUMENTS.items():
            function = getattr(compiled, name)
            function.argtypes, function.restype = types, None
    return compiled


def why_not_available() -> str | None:
    """Why `code` gives none; None where it gives one."""
    return None if code() is not None else why_not("few_rows", torch.float32)


def mlp(compiled: ctypes.CDLL, x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """[..., C] -> [..., O]."""
    R, widest = x.numel() // x.shape[-1], max(len(bias) for _, bias in layers)
    out, space = x.new_empty(*x.shape[:-1], len(layers[-1][1])), x.new_empty(2 * R * widest)
    arguments = (_layers(layers), len(layers), space.data_ptr(), widest, out.data_ptr())
    compiled.mlp(x.data_ptr(), R, *arguments)
    return out


def linears_of_sum(
    compiled: ctypes.CDLL, x: Tensor, position: Tensor, layers: Sequence[Layer]
) -> list[Tensor]:
    """[..., C] and [P, C] -> [..., O] of each."""
    C = x.shape[-1]
    R, P, space = x.numel() // C, position.numel() // C, torch.empty_like(x)
    outs = [x.new_empty(*x.shape[:-1], len(bias)) for _, bias in layers]
    places = (ctypes.c_void_p * len(outs))(*(out.data_ptr() for out in outs))
    pointers = (x.data_ptr(), position.data_ptr())
    compiled.linears_of_sum(*pointers, R, P, _layers(layers), len(layers), space.data_ptr(), places)
    return outs


def linear_norm(
    compiled: ctypes.CDLL, x: Tensor, residual: Tensor, layer: Layer, norm: Norm
) -> Tensor:
    """[..., C] and [..., O] -> [..., O]."""
    out = torch.empty_like(residual)
    R, pointers = x.numel() // x.shape[-1], (x.data_ptr(), residual.data_ptr())
    compiled.linear_norm(*pointers, R, _layers([layer]), _norm(norm), out.data_ptr())
    return out


def feed_forward(
    compiled: ctypes.CDLL, x: Tensor, first: Layer, second: Layer, norm: Norm
) -> Tensor:
    """[..., C] -> [..., C]."""
    R, out = x.numel() // x.shape[-1], torch.empty_like(x)
    space = x.new_empty(R * len(first[1]))
    arguments = (_layers([first, second]), _norm(norm), space.data_ptr(), out.data_ptr())
    compiled.feed_forward(x.data_ptr(), R, *arguments)
    return out


def attend(
    compiled: ctypes.CDLL,
    x: Tensor,
    position: Tensor,
    inner: Layer,
    projection: Layer,
    norm: Norm,
    num_heads: int,
) -> Tensor:
    """[n, Q, C] -> [n, Q, C]."""
    n, Q, _ = x.shape
    out, space = torch.empty_like(x), x.new_empty(5 * x.numel() + Q)
    layers = (_layers([inner]), _layers([projection]), _norm(norm))
    pointers = (x.data_ptr(), position.data_ptr())
    compiled.attend(*pointers, n, Q, num_heads, *layers, space.data_ptr(), out.data_ptr())
    return out


def _layers(layers: Sequence[Layer]) -> ctypes.Array[_Layer]:
    array = (_Layer * len(layers))()
    for entry, (weight, bias) in zip(array, layers, strict=True):
        entry.weight, entry.bias = weight.data_ptr(), bias.data_ptr()
        entry.outputs, entry.inputs = weight.shape
    return array


def _norm(norm: Norm) -> Any:
    gamma, beta, eps = norm
    return ctypes.byref(_Norm(gamma.data_ptr(), beta.data_ptr(), eps))
