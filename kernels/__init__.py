"""Multi-scale deformable attention and the dynamic mask head, usable on their own.

`ms_deform_attn` and `dynamic_mask_head` are what a model calls; the `*_reference` beside each is
plain PyTorch and the definition of correct. `dynamic_mask_loss` goes from the same arguments to
the sums of the mask losses; `threshold_masks` and `encode_masks` from logits to masks of the
frame's size. `explain` says which implementation a call takes, `use_backend` overrides the choice.
This folder knows nothing of the models that use it; it needs torch only.
"""

import os as _os
import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

_HERE = _os.path.realpath(__file__)

# Set where this folder was imported before under its other name; see `two_names`.
_twin = next(
    (
        _name
        for _name in ("kernels", "seqformer.kernels")
        if _name != __name__
        and _os.path.realpath(getattr(_sys.modules.get(_name), "__file__", None) or "") == _HERE
    ),
    None,
)

if _twin is not None:
    _sys.modules[_twin].two_names.share_modules(_twin, __name__)
    _sys.modules[_twin].registry_package.share_name(_sys.modules[_twin], __name__)
else:
    from . import few_rows as few_rows
    from . import integrations as integrations
    from . import registry_package
    from . import split_product as split_product
    from . import two_names as two_names
    from .backend import Explanation, current_backend, explain, use_backend
    from .deformable_attention import (
        ms_deform_attn,
        ms_deform_attn_fused,
        ms_deform_attn_fused_reference,
        ms_deform_attn_reference,
    )
    from .frame_masks import RunLengths, encode_masks, threshold_masks
    from .mask_head import MaskHeadConfig, dynamic_mask_head, dynamic_mask_head_reference
    from .mask_loss import MaskLossSums, dynamic_mask_loss

    __all__ = [
        "Explanation",
        "MaskHeadConfig",
        "MaskLossSums",
        "RunLengths",
        "current_backend",
        "dynamic_mask_head",
        "dynamic_mask_head_reference",
        "dynamic_mask_loss",
        "encode_masks",
        "explain",
        "ms_deform_attn",
        "ms_deform_attn_fused",
        "ms_deform_attn_fused_reference",
        "ms_deform_attn_reference",
        "threshold_masks",
        "use_backend",
    ]

    registry_package.share_name(_sys.modules[__name__], __name__)
    if not _TYPE_CHECKING:

        def __getattr__(name: str) -> object:
            """Of the registry package `kernels`, where this folder answers to its name."""
            return registry_package.attribute(_sys.modules[__name__], name)
