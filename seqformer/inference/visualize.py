"""The drawing of a run's results, by the name that its module had here."""

from ..visualization.result_videos import result_drawer

__all__ = ["result_drawer"]
