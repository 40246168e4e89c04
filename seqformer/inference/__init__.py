"""Whole videos through a model: prediction, the results file, pictures, and `eval.py`.

The names below are imported on first use: results and drawing work without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "Detection": "seqformer.inference.prediction",
    "Predictor": "seqformer.inference.predictor",
    "StreamLimits": "seqformer.inference.stream",
    "VideoPrediction": "seqformer.inference.prediction",
    "VideoStream": "seqformer.inference.stream",
    "draw_video": "seqformer.visualization.drawing",
    "write_video": "seqformer.visualization.video_writer",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'seqformer.inference' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
