"""Scoring of video instance segmentation results, equal to the official YouTube-VIS evaluator,
and of TrackEval's HOTA and IDF1.

`analyse` and `compare` take the score apart. Importing this needs NumPy and pycocotools, and never
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqformer.evaluation.analysis import Analysis, analyse
    from seqformer.evaluation.comparison import Comparison, compare
    from seqformer.evaluation.metrics_table import format_table
    from seqformer.evaluation.scores import Scores, score
    from seqformer.evaluation.tracking import TrackingMetrics, evaluate_tracking
    from seqformer.evaluation.tracking_table import format_tracking
    from seqformer.evaluation.ytvis_metric import YTVISMetrics, evaluate, pairwise_ious

_LAZY = {
    "Analysis": "analysis",
    "Comparison": "comparison",
    "Scores": "scores",
    "TrackingMetrics": "tracking",
    "YTVISMetrics": "ytvis_metric",
    "analyse": "analysis",
    "compare": "comparison",
    "evaluate": "ytvis_metric",
    "evaluate_tracking": "tracking",
    "format_table": "metrics_table",
    "format_tracking": "tracking_table",
    "pairwise_ious": "ytvis_metric",
    "score": "scores",
}
"""Imported on first use: scoring a file takes less time than importing all of them."""

__all__ = [
    "Analysis",
    "Comparison",
    "Scores",
    "TrackingMetrics",
    "YTVISMetrics",
    "analyse",
    "compare",
    "evaluate",
    "evaluate_tracking",
    "format_table",
    "format_tracking",
    "pairwise_ious",
    "score",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
