"""Multi-scale deformable attention and the dynamic mask head, usable on their own.

`ms_deform_attn` and `dynamic_mask_head` are what a model calls; the `*_reference` beside each is
plain PyTorch and the definition of correct. `dynamic_mask_loss` goes from the same arguments to
the sums of the mask losses; `threshold_masks` and `encode_masks` from logits to masks of the
frame's size. `explain` says which implementation a call takes, `use_backend` overrides the choice.
This folder knows nothing of the models that use it; it needs torch only.
"""

import sys as _sys

# One process, one copy: if this very file is already loaded under another name (an installed
# SeqFormer finds it by location), that copy answers to this name too, so that ops and backend state
# exist once.
_twin = next(
    (
        _name
        for _name, _module in list(_sys.modules.items())
        if _name != __name__
        and getattr(_module, "__file__", None) == __file__
        and hasattr(_module, "ms_deform_attn")
    ),
    None,
)

if _twin is not None:
    for _name in [n for n in _sys.modules if n == _twin or n.startswith(_twin + ".")]:
        _sys.modules[__name__ + _name[len(_twin) :]] = _sys.modules[_name]
else:
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
