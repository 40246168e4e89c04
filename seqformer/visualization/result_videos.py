"""Results of a whole run as videos: what `eval.py --visualize` writes, for every video one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from seqformer.annotations.ytvis import load_annotation_file
from seqformer.data.video_sources import VideoSource
from seqformer.visualization.drawing import iterate_drawn, tracks_from_entries
from seqformer.visualization.side_by_side import side_by_side, tracks_from_ground_truth
from seqformer.visualization.stills import draw_picture, write_picture
from seqformer.visualization.video_writer import DEFAULT_FPS, FPS_RANGE, write_video


def result_drawer(
    folder: Path,
    video_format: Literal["mp4", "webm", "gif", "png"],
    names: Mapping[int, str],
    *,
    min_score: float,
    fps: float | None = None,
    truth: Path | None = None,
) -> Callable[[VideoSource, list[dict[str, Any]]], None]:
    """A function that draws a video's entries of a results file into a folder.

    Args:
        folder: gets a file per video; with png a folder of pictures per video.
        names: category id -> name.
        min_score: results below it are not drawn.
        fps: by default that of the video file, 6 for images.
        truth: annotation file; its objects are drawn on the left of the results.

    Raises: ValueError when there is no ground truth in `truth`.
    """
    suffix = "" if video_format == "png" else f".{video_format}"
    videos = {}
    if truth is not None:
        listed = load_annotation_file(truth, require_annotations=True)
        videos = {video.id: video for video in listed.videos}

    def draw(source: VideoSource, entries: list[dict[str, Any]]) -> None:
        if source.is_still:
            (frame,) = source.frames()
            drawn = draw_picture(frame, entries, names, min_score)
            write_picture(folder / f"{source.name}.png", drawn)
            return
        tracks = tracks_from_entries(entries)
        if truth is None:
            frames = iterate_drawn(source.frames(), tracks, names, min_score)
        else:
            objects = tracks_from_ground_truth(videos[source.video_id])
            frames = side_by_side(source.frames(), objects, tracks, names, min_score)
        write_video(
            folder / f"{source.name}{suffix}",
            frames,
            fps or _fps_of(source),
            as_pictures=video_format == "png",
        )

    return draw


def _fps_of(source: VideoSource) -> float:
    """Of a video file that says it; files without a sound clock say impossible rates."""
    fps = source.fps() or DEFAULT_FPS
    low, high = FPS_RANGE
    return fps if low <= fps <= high else DEFAULT_FPS
