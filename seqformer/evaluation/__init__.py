"""Scoring of video instance segmentation results, equal to the official YouTube-VIS evaluator.

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
    from seqformer.evaluation.ytvis_metric import YTVISMetrics, evaluate, pairwise_ious

_LAZY = {
    "Analysis": "analysis",
    "Comparison": "comparison",
    "YTVISMetrics": "ytvis_metric",
    "analyse": "analysis",
    "compare": "comparison",
    "evaluate": "ytvis_metric",
    "format_table": "metrics_table",
    "pairwise_ious": "ytvis_metric",
}
"""Imported on first use: scoring a file takes less time than importing all of them."""

__all__ = [
    "Analysis",
    "Comparison",
    "YTVISMetrics",
    "analyse",
    "compare",
    "evaluate",
    "format_table",
    "pairwise_ious",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
