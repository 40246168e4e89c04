"""Results as one HTML page that opens from a file: numbers, curves, failures, and every video.

Needs results, annotations and, to show frames, their folder; never torch.
"""

from seqformer.config import ReportOptions
from seqformer.report.build import write_report

__all__ = ["ReportOptions", "write_report"]
