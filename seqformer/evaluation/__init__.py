"""Scoring of video instance segmentation results, equal to the official YouTube-VIS evaluator.

Importing this needs NumPy and pycocotools, and never torch.
"""

from seqformer.evaluation.report import format_table
from seqformer.evaluation.ytvis_metric import YTVISMetrics, evaluate, pairwise_ious

__all__ = ["YTVISMetrics", "evaluate", "format_table", "pairwise_ious"]
