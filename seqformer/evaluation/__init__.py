"""Scoring of video instance segmentation results, equal to the official YouTube-VIS evaluator.

`analyse` and `compare` take the score apart. Importing this needs NumPy and pycocotools, and never
torch.
"""

from seqformer.evaluation.analysis import Analysis, analyse
from seqformer.evaluation.comparison import Comparison, compare
from seqformer.evaluation.metrics_table import format_table
from seqformer.evaluation.ytvis_metric import YTVISMetrics, evaluate, pairwise_ious

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
