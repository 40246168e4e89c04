"""What the places that show a run have in common: names, pictures, ids and settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from seqformer.data.video_sources import VideoSource
from seqformer.files import write_json
from seqformer.visualization.drawing import draw_video, tracks_from_entries

DRAWN_VIDEOS = 4
DRAWN_FRAMES = 4
"""Frames of a drawn video, evenly spread, side by side."""
DRAWN_MIN_SCORE = 0.3
IDS_NAME = "tracking.json"
"""Under which ids a run is known to the services, so that a resumed one goes on there."""


def scalar_names(record: dict[str, Any]) -> dict[str, float]:
    """A training line's numbers under the names of a board: "loss/...", "run/..."."""
    return {
        f"{'loss' if name.startswith('loss') else 'run'}/{name}": value
        for name, value in record.items()
        if name not in ("step", "epoch")
    }


def drawn_videos(
    videos: Sequence[VideoSource], names: Mapping[int, str], results: list[dict]
) -> Iterator[tuple[int, np.ndarray]]:
    """The first videos, each with its id as one picture [h, w, 3] uint8 of a few frames."""
    for video in videos[:DRAWN_VIDEOS]:
        entries = [entry for entry in results if entry["video_id"] == video.video_id]
        tracks = tracks_from_entries(entries)
        drawn = draw_video(video.frames(), tracks, names, DRAWN_MIN_SCORE)
        chosen = np.linspace(0, len(drawn) - 1, min(DRAWN_FRAMES, len(drawn))).round()
        yield video.video_id, np.concatenate([drawn[int(index)] for index in chosen], axis=1)


def known_id(output: Path, service: str) -> str | None:
    """Under which id a service knows the run in this folder; None if it does not."""
    with suppress(OSError, ValueError):
        ids = json.loads((output / IDS_NAME).read_bytes())
        if isinstance(ids, dict) and isinstance(ids.get(service), str):
            return ids[service]
    return None


def remember_id(output: Path, service: str, run_id: str) -> None:
    """Keep the id for a later session. Raises: WriteError."""
    ids = {one: known for one in ("wandb", "mlflow") if (known := known_id(output, one))}
    write_json(output / IDS_NAME, {**ids, service: run_id})
