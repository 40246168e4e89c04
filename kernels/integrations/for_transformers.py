"""transformers: every family with deformable attention, one model at a time.

The library computes it in two ways. Most families have a layer of their own for it, called
`MultiScaleDeformableAttention`, which the registry package `kernels` can replace (`kernelize`).
Mask2Former, OneFormer, RT-DETRv2, D-FINE and DEIMv2 call a function of their module. Layers are
replaced on the model at hand; a function of a module serves all models of its family.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import MethodType, ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..deformable_attention import ms_deform_attn
from .layers import MultiScaleDeformableAttention
from .patches import Patch

LAYER = "MultiScaleDeformableAttention"
FUNCTION = "multi_scale_deformable_attention"
UNEVEN = "multi_scale_deformable_attention_v2"
_HELD = "ms_deformable_attn_core"
"""Attribute in which a module of D-FINE or DEIMv2 holds the function."""

Way = Literal["auto", "kernelize", "plain"]


def use_in_transformers(model: nn.Module, way: Way = "auto") -> Patch:
    """Let a model of transformers compute its deformable attention with our operator.

    Args:
        model: any module that holds layers of transformers.
        way: of replacing a layer. "kernelize" asks the registry package `kernels`; "plain" sets
            `forward` of every layer; "auto" is "kernelize" where that package is installed.

    Returns: the patch, to undo.
    Raises: ValueError if the model has no such attention or this version of transformers calls it
        in another way, ImportError if `kernels` is asked for and not there.
    """
    layers = [m for m in model.modules() if _is_theirs(type(m)) and type(m).__name__ == LAYER]
    modules = {type(m).__module__ for m in model.modules() if _is_theirs(type(m))}
    for layer in layers:
        _check_signature(layer.forward, MultiScaleDeformableAttention().forward, LAYER)
    patch = Patch()
    try:
        if way == "kernelize" or (way == "auto" and layers and _is_registry_usable()):
            _kernelize(layers, patch)
        else:
            for layer in layers:
                forward = MethodType(MultiScaleDeformableAttention.forward, layer)
                patch.set(layer, "forward", forward)
        for name in sorted(modules):
            _replace_functions(sys.modules[name], model, patch)
    except BaseException:
        patch.undo()
        raise
    if not len(patch):
        raise ValueError(
            f"{type(model).__name__} has no multi-scale deformable attention of transformers "
            f"{_version('transformers')}, nothing to replace"
        )
    return patch


class _Layer:
    """Our layer, as `kernelize` wants to be told of it: like a `LocalLayerRepository`."""

    def load(self) -> type[nn.Module]:
        return MultiScaleDeformableAttention

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Layer)

    def __hash__(self) -> int:
        return hash(_Layer)

    def __str__(self) -> str:
        return f"seqformer.kernels.integrations (layer `{LAYER}`)"


def kernel_mapping() -> dict[str, dict[str, Any]]:
    """Our layer for `register_kernel_mapping` and `use_kernel_mapping` of the registry package.

    Every later `kernelize` takes it, on a CPU and on a GPU:

        kernels.register_kernel_mapping(integrations.kernel_mapping())
    """
    return {LAYER: {device: _Layer() for device in ("cpu", "cuda", "rocm")}}


def _kernelize(layers: list[nn.Module], patch: Patch) -> None:
    package = import_module("kernels")
    missing = [name for name in _NEEDED if not hasattr(package, name)]
    if missing:
        raise ImportError(
            f"the registry package kernels {_version('kernels')} has no {', '.join(missing)}; "
            'install kernels>=0.10, or ask for way="plain"'
        )
    for layer in layers:
        kind = type(layer)
        # transformers marks its classes only for the versions of `kernels` that it accepts
        if not hasattr(kind, "kernel_layer_name"):
            patch.keep(kind, "kernel_layer_name")
            patch.keep(kind, "kernel_condition")
            package.replace_kernel_forward_from_hub(kind, LAYER)
        patch.keep(layer, "forward")
        mode = package.Mode.TRAINING | package.Mode.TORCH_COMPILE
        with package.use_kernel_mapping(kernel_mapping(), inherit_mapping=False):
            package.kernelize(layer, mode=mode, device=_device(layer), use_fallback=False)


_NEEDED = ("Mode", "kernelize", "replace_kernel_forward_from_hub", "use_kernel_mapping")


def _is_registry_usable() -> bool:
    try:
        package = import_module("kernels")
    except ImportError:
        return False
    return all(hasattr(package, name) for name in _NEEDED)


def _device(layer: nn.Module) -> str:
    """By the names of `kernels`. The layer has no parameters, and works wherever it is called."""
    if not torch.cuda.is_available():
        return "cpu"
    return "rocm" if torch.version.hip else "cuda"


def _replace_functions(module: ModuleType, model: nn.Module, patch: Patch) -> None:
    """The functions of one family, and the modules of this model that hold one."""
    for name, make in ((FUNCTION, lambda theirs: _even), (UNEVEN, _uneven)):
        if name not in vars(module):
            continue
        if not _is_ours(vars(module)[name]):
            _check_signature(vars(module)[name], make(vars(module)[name]), name)
        theirs = patch.share(module, name, make)
        for layer in model.modules():
            if vars(layer).get(_HELD) is theirs:
                patch.set(layer, _HELD, vars(module)[name])


def _is_ours(function: Callable[..., Any]) -> bool:
    return function.__module__ == __name__


def _even(
    value: Tensor,
    value_spatial_shapes: Tensor | list[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """As Mask2Former and OneFormer call it."""
    return ms_deform_attn(value, value_spatial_shapes, sampling_locations, attention_weights)


def _uneven(theirs: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """As RT-DETRv2, D-FINE and DEIMv2 call it: levels may have different numbers of points.

    Their other method reads the nearest cell, which is not our operator: it stays theirs.
    """

    def attend(
        value: Tensor,
        value_spatial_shapes: Tensor | list[tuple[int, int]],
        sampling_locations: Tensor,
        attention_weights: Tensor,
        num_points_list: list[int],
        method: str = "default",
    ) -> Tensor:
        if method != "default":
            return theirs(
                value,
                value_spatial_shapes,
                sampling_locations,
                attention_weights,
                num_points_list,
                method,
            )
        locations, weights = by_level(sampling_locations, attention_weights, num_points_list)
        return ms_deform_attn(value, value_spatial_shapes, locations, weights)

    return attend


def by_level(locations: Tensor, weights: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """[B, Q, M, sum(P), 2] and [B, Q, M, sum(P)] as [B, Q, M, L, P, 2] and [B, Q, M, L, P].

    Args:
        counts: points of every level. Levels with fewer than the most get points of weight zero,
            which lie outside and read nothing.
    """
    most = max(counts)
    if min(counts) == most:
        levels = [len(counts), most]
        return locations.unflatten(3, levels), weights.unflatten(3, levels)
    padded_locations, padded_weights = [], []
    for points, shares in zip(locations.split(counts, 3), weights.split(counts, 3), strict=True):
        room = most - points.shape[3]
        padded_locations.append(pad(points, (0, 0, 0, room), value=-1.0))
        padded_weights.append(pad(shares, (0, room)))
    return torch.stack(padded_locations, 3), torch.stack(padded_weights, 3)


def _check_signature(theirs: Callable[..., Any], ours: Callable[..., Any], name: str) -> None:
    given = list(inspect.signature(theirs).parameters)
    known = list(inspect.signature(ours).parameters)
    if given != known:
        raise ValueError(
            f"transformers {_version('transformers')} calls {name} with {given}, and this adapter "
            f"knows {known} only"
        )


def _is_theirs(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "transformers"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(of no known version)"
