"""Deformable attention of other libraries, answered by ours: one line each, and undoable.

    from seqformer.kernels import integrations

    integrations.use_in_transformers(model)  # a model of transformers
    integrations.use_as_extension()          # whatever imports MultiScaleDeformableAttention
    integrations.use_in_mmcv()               # mmcv, with or without its compiled operators
    integrations.use_fused(model)            # modules called MSDeformAttn, with softmax inside

Every call returns a `Patch`: `undo()` restores what was there, and so does the end of a `with`.
The libraries are imported by these calls, never before.
"""

from __future__ import annotations

from .extension import use_as_extension
from .for_mmcv import use_in_mmcv
from .for_transformers import kernel_mapping, use_in_transformers
from .layers import MultiScaleDeformableAttention
from .module import MSDeformAttn, use_fused
from .patches import Patch

__all__ = [
    "MSDeformAttn",
    "MultiScaleDeformableAttention",
    "Patch",
    "kernel_mapping",
    "use_as_extension",
    "use_fused",
    "use_in_mmcv",
    "use_in_transformers",
]
