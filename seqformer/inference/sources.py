"""The videos of an evaluation, by the name that their module had here."""

from ..data.video_reader import read_video
from ..data.video_sources import VideoSource, find_videos, listed_videos, open_video

__all__ = ["VideoSource", "find_videos", "listed_videos", "open_video", "read_video"]
