"""The model for other programs: traced into one graph, written as .pt2 or ONNX, and read back."""

from .description import Description
from .reader import SUFFIXES, is_exported, open_exported
from .writer import GraphFormat, export_graph

__all__ = [
    "SUFFIXES",
    "Description",
    "GraphFormat",
    "export_graph",
    "is_exported",
    "open_exported",
]
