"""AP of parts of the data: long and short videos (YouTube-VIS 2022), degrees of occlusion (OVIS).

YouTube-VIS 2022 scores its long videos apart from those of 2021 and gives both and their mean. OVIS
says of every object in every frame how much of it is hidden. The score of an object is the mean of
the worse half of its frames, and objects of other scores are ignored as those of other sizes are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seqformer.evaluation.ap_accumulator import APAccumulator, VideoMatches
from seqformer.evaluation.matching import match
from seqformer.evaluation.records import GroundTruth, Predictions
from seqformer.evaluation.ytvis_metric import plain_stats, read_groups
from seqformer.safe_files import read_regular

Part = dict[str, float]
"""AP, AP50, AP75, AR100 and, of videos, the others of the twelve; -1 where there is nothing."""

OCCLUSION_SCORES = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}
OCCLUSION_RANGES = {"APso": (0.0, 0.25), "APmo": (0.25, 0.5), "APho": (0.5, 1.0)}
"""Slightly, moderately and heavily occluded objects; both ends included."""


def occlusion_score(frames: Any) -> float | None:
    """Of an object, from `occlusion` of its annotation; None where that does not say."""
    if not isinstance(frames, list):
        return None
    scores = [OCCLUSION_SCORES.get(level) for level in frames if isinstance(level, str)]
    told = sorted(score for score in scores if score is not None)
    if not told or len(told) < len(scores):
        return None
    worse = told[-((len(told) + 1) // 2) :]
    return sum(worse) / len(worse)


def occlusion_parts(
    truth: GroundTruth, predictions: Predictions, entries: Iterable[Any]
) -> dict[str, Part]:
    """AP of slightly, moderately and heavily occluded objects; empty where the file is silent.

    Args:
        entries: the annotations of the file.
    """
    scores = [occlusion_score(e.get("occlusion")) for e in entries if isinstance(e, dict)]
    if not scores or None in scores or len(scores) != len(truth.instances):
        return {}
    from seqformer.evaluation.analysis import stats_of  # not needed for other files

    score_of = {id(i): float(s or 0) for i, s in zip(truth.instances, scores, strict=True)}
    position = {video_id: v for v, video_id in enumerate(sorted(truth.videos))}
    matched: dict[str, dict[int, list[VideoMatches]]] = {
        name: {k: [] for k in sorted(truth.categories)} for name in OCCLUSION_RANGES
    }
    for group in read_groups(truth, predictions.records()):
        ious = group.ious()
        own = np.array([score_of[id(instance)] for instance in group.instances])
        is_crowd = np.array([instance.is_crowd for instance in group.instances], bool)
        ranked = np.array([result.score for result in group.results], np.float64)
        for name, limits in OCCLUSION_RANGES.items():
            # Results have no score: whatever they match, none is out of the range by itself.
            inside = np.full(len(ranked), limits[0])
            matches = match(ious, inside, own, is_crowd, np.array([limits]))
            video = VideoMatches(position[group.video_id], ranked, matches)
            matched[name][group.category_id].append(video)
    everything = np.ones((1, len(position)), np.int64)
    return {
        name: {
            key: float(values[0])
            for key, values in stats_of(
                [APAccumulator.of(videos) for videos in by_class.values()], everything
            ).items()
        }
        for name, by_class in matched.items()
    }


def read_video_list(path: Path) -> set[str]:
    """Ids or folders of videos: a JSON list, or one a line. Raises: ValueError."""
    text = read_regular(path, "list of videos").decode("utf-8", "replace")
    try:
        listed = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
    except ValueError as error:
        raise ValueError(f"{path} is no list of videos ({error})") from None
    names = {str(name).strip() for name in listed} - {""}
    if not names:
        raise ValueError(f"{path} lists no video")
    return names


def long_videos(
    truth: GroundTruth, videos: Iterable[Mapping[str, Any]], listed: set[str] | None, least: int
) -> set[int]:
    """Ids of the long videos.

    Args:
        videos: of the annotation file, for their folders.
        listed: ids or folders; None decides by the length.
        least: frames of the shortest long video.

    Raises: ValueError when a listed video is not in the file.
    """
    if listed is None:
        return {video_id for video_id, frames in truth.lengths.items() if frames >= least}
    ids, found = set(), set()
    for video in videos:
        names = video.get("file_names")
        folder = str(names[0]).rpartition("/")[0] if isinstance(names, list) and names else ""
        own = {str(video["id"]), folder} & listed
        if own:
            ids.add(int(video["id"]))
            found |= own
    if missing := sorted(listed - found):
        raise ValueError(
            f"{len(missing)} of the long videos are not in the annotation file (first: "
            f"{missing[0]!r}); list ids or folders of its videos"
        )
    return ids


def length_parts(
    truth: GroundTruth, predictions: Predictions, long: set[int], threads: int = 1
) -> dict[str, Part]:
    """The numbers of short and of long videos, and their mean, as YouTube-VIS 2022 gives them."""
    short = plain_stats(*_of_videos(truth, predictions, truth.videos.keys() - long), threads)
    other = plain_stats(*_of_videos(truth, predictions, long), threads)
    mean = {
        name: (value + other[name]) / 2 if min(value, other[name]) >= 0 else -1.0
        for name, value in short.items()
    }
    return {"short videos": short, "long videos": other, "mean of both": mean}


def _of_videos(
    truth: GroundTruth, predictions: Predictions, ids: set[int]
) -> tuple[GroundTruth, Predictions]:
    kept = np.isin(predictions.video_ids, np.array(sorted(ids), np.uint64))
    columns = {
        name: getattr(predictions, name)[kept]
        for name in ("numbers", "video_ids", "category_ids", "scores")
    }
    return (
        replace(
            truth,
            videos={k: v for k, v in truth.videos.items() if k in ids},
            instances=[one for one in truth.instances if one.video_id in ids],
        ),
        replace(predictions, **columns),
    )


def format_parts(parts: Mapping[str, Part]) -> str:
    """Percentages, a line for each part."""
    names = ("AP", "AP50", "AP75", "AR1", "AR10", "AR100")
    width = max(len(name) for name in parts)
    lines = [f"{'':{width}}" + "".join(f"{name:>7}" for name in names)]
    for part, numbers in parts.items():
        values = [numbers.get(name, -1.0) for name in names]
        cells = (f"{100 * v:7.2f}" if v >= 0 else f"{'-':>7}" for v in values)
        lines.append(f"{part:{width}}" + "".join(cells))
    return "\n".join(lines)
