"""SeqFormer: offline video instance segmentation with one query per object and clip (ECCV 2022).

The names below are imported on first use, so that scoring a results file (`seqformer.evaluation`)
never pays for importing torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from . import _checkout

__version__ = "0.1.0"

_LAZY = {
    "build_model": "seqformer.model",
    "load_weights": "seqformer.model",
    "training_losses": "seqformer.criterion",
    "SeqFormer": "seqformer.model",
    "SetCriterion": "seqformer.criterion",
    "HungarianMatcher": "seqformer.criterion",
    "Predictor": "seqformer.inference",
    "kernels": "seqformer._kernels",
}

__all__ = ["__version__", *sorted(_LAZY)]

_checkout.find_kernels()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'seqformer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
