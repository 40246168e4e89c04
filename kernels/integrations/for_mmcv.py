"""mmcv: its deformable attention function and module, answered by our operators.

`use_in_mmcv` replaces both in the installed library. mmcv without compiled operators (`mmcv-lite`,
or a build that failed) cannot import its own file; then a stand-in answers for what was not built
and refuses everything but this operator.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor

from ..deformable_attention import ms_deform_attn
from . import extension
from .patches import Patch

_OPERATORS = "mmcv.ops.multi_scale_deform_attn"
_COMPILED = "mmcv._ext"


class MultiScaleDeformableAttnFunction:
    """`apply`, with the arguments of mmcv's function. mmcv need not be installed."""

    @staticmethod
    def apply(
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int = 64,
    ) -> Tensor:
        """[B, Q, M*D] in value's dtype; differentiable in value, locations and weights.

        Arguments as in `extension.ms_deform_attn_forward`, except that the tensors may differ in
        dtype: under autocast value is half, and locations stay in float32, which is more exact.
        Raises: ValueError as there.
        """
        shapes = extension.check(
            value,
            value_spatial_shapes,
            value_level_start_index,
            sampling_locations,
            attention_weights,
            int(im2col_step),
            mixed=True,
        )
        return ms_deform_attn(value, shapes, sampling_locations, attention_weights)


def multi_scale_deformable_attn_pytorch(
    value: Tensor,
    value_spatial_shapes: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """What mmcv's module calls on a CPU. Arguments and result as in `ms_deform_attn`."""
    return ms_deform_attn(value, value_spatial_shapes, sampling_locations, attention_weights)


def use_in_mmcv() -> Patch:
    """Let mmcv's `MultiScaleDeformableAttnFunction` and `MultiScaleDeformableAttention` call ours.

    Whoever imported the function before calls ours too. Call it before `mmcv.ops` is imported where
    mmcv has no compiled operators.

    Returns: the patch, to undo; a stand-in stays, and refuses.
    Raises: ImportError if mmcv is not installed, or too old to have the file.
    """
    if find_spec("mmcv") is None:
        raise ImportError("mmcv is not installed; for its operators without it, see MSDeformAttn")
    patch = Patch()
    try:
        if not _is_built():
            _stand_in()
        try:
            module = import_module(_OPERATORS)
        except ModuleNotFoundError as error:
            raise ImportError(f"{_OPERATORS} cannot be imported: {error}") from error
        function = module.MultiScaleDeformableAttnFunction
        patch.set(function, "apply", staticmethod(MultiScaleDeformableAttnFunction.apply))
        patch.set(
            module, "multi_scale_deformable_attn_pytorch", multi_scale_deformable_attn_pytorch
        )
    except BaseException:
        patch.undo()
        raise
    return patch


def _is_built() -> bool:
    return _COMPILED in sys.modules or find_spec(_COMPILED) is not None


def _stand_in() -> None:
    """Lets `mmcv.ops` be imported where nothing was compiled. It stays: mmcv keeps a registry of
    its classes, so its files cannot be imported twice."""
    module = ModuleType(_COMPILED, "What was not compiled.")
    module.__getattr__ = _refuse  # type: ignore[method-assign]
    sys.modules[_COMPILED] = module


def _refuse(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError(
            f"mmcv was installed without its compiled operators, so there is no {name}; only "
            "multi-scale deformable attention is answered here"
        )

    return refuse
