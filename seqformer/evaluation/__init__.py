"""Scoring of video instance segmentation results, equal to the official YouTube-VIS evaluator,
and of TrackEval's HOTA and IDF1.

`analyse` and `compare` take the score apart. Importing this needs NumPy and pycocotools, and never
torch.
"""

from seqformer.evaluation.analysis import Analysis, analyse
from seqformer.evaluation.comparison import Comparison, compare
from seqformer.evaluation.metrics_table import format_table
from seqformer.evaluation.scores import Scores, score
from seqformer.evaluation.tracking import TrackingMetrics, evaluate_tracking
from seqformer.evaluation.tracking_table import format_tracking
from seqformer.evaluation.ytvis_metric import YTVISMetrics, evaluate, pairwise_ious

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
