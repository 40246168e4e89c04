"""What is in an annotation file: numbers, a table of the classes, and a plot."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqformer.annotations.ytvis import AnnotationSet, load_annotation_file
from seqformer.evaluation.records import load_json, read_ground_truth, read_tracks
from seqformer.former import Former


@dataclass(frozen=True)
class Measures:
    """One entry per video or per instance, crowds left out. N instances, V videos."""

    lengths: np.ndarray
    """[V] frames."""
    frame_sizes: Counter[tuple[int, int]]
    """(height, width) -> videos."""
    video: np.ndarray
    """[N] position of the instance's video."""
    category_ids: np.ndarray
    """[N]."""
    num_visible: np.ndarray
    """[N] frames with a mask."""
    shares: np.ndarray
    """[N] mean share of the frame that it covers while visible."""
    centres: np.ndarray
    """[boxes, 2] centres (x, y) of all boxes, as shares of the frame."""
    num_crowds: int
    categories: dict[int, str]


def measure(path: Path) -> Measures:
    """Read a file. Raises: FileNotFoundError; ValueError naming the entry that is wrong."""
    source = load_json(path, "annotations")
    listed = load_annotation_file(path)
    truth = read_ground_truth(source)
    place = {video.id: v for v, video in enumerate(listed.videos)}
    pixels = {video.id: video.height * video.width for video in listed.videos}
    instances = [instance for instance in truth.instances if not instance.is_crowd]
    visible, shares = [], []
    for instance in instances:
        (track,) = read_tracks([instance], truth.videos[instance.video_id])
        visible.append(np.count_nonzero(track.areas))
        shares.append(track.mean_area() / pixels[instance.video_id])
    return Measures(
        lengths=np.array([video.length for video in listed.videos]),
        frame_sizes=Counter((video.height, video.width) for video in listed.videos),
        video=np.array([place[i.video_id] for i in instances], np.int64),
        category_ids=np.array([i.category_id for i in instances], np.uint64),
        num_visible=np.array(visible, np.int64),
        shares=np.array(shares, np.float64),
        centres=_centres(listed),
        num_crowds=len(truth.instances) - len(instances),
        categories=truth.categories,
    )


def _centres(listed: AnnotationSet) -> np.ndarray:
    parts = [np.zeros((0, 2))]
    for video in listed.videos:
        for instance in video.instances:
            boxes = instance.boxes_xyxy
            boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
            if not instance.is_crowd:
                parts.append((boxes[:, :2] + boxes[:, 2:]) / 2 / [video.width, video.height])
    return np.concatenate(parts)


def summarise(measures: Measures) -> dict[str, Any]:
    """Plain numbers."""
    per_video = np.bincount(measures.video, minlength=len(measures.lengths))
    visible = measures.num_visible / np.maximum(measures.lengths[measures.video], 1)
    classes = []
    for category_id, name in sorted(measures.categories.items()):
        own = measures.category_ids == category_id
        classes.append(
            {
                "id": category_id,
                "name": name,
                "instances": int(own.sum()),
                "videos": len(set(measures.video[own].tolist())),
                "masks": int(measures.num_visible[own].sum()),
                "mean_share_of_frame": float(measures.shares[own].mean()) if own.any() else None,
            }
        )
    return {
        "videos": len(measures.lengths),
        "frames": int(measures.lengths.sum()),
        "instances": len(measures.video),
        "crowds": measures.num_crowds,
        "masks": int(measures.num_visible.sum()),
        "videos_without_instances": int((per_video == 0).sum()),
        "frame_sizes": [
            {"height": h, "width": w, "videos": n}
            for (h, w), n in measures.frame_sizes.most_common()
        ],
        "video_length": _quantiles(measures.lengths),
        "instances_per_video": _quantiles(per_video),
        "visible_share_of_video": _quantiles(visible),
        "share_of_frame": _quantiles(measures.shares),
        "classes": classes,
    }


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    if not values.size:
        return None
    names = ("min", "p10", "median", "p90", "max")
    quantiles = np.quantile(values, [0, 0.1, 0.5, 0.9, 1])
    return {
        **{n: float(q) for n, q in zip(names, quantiles, strict=True)},
        "mean": float(values.mean()),
    }


def format_summary(numbers: dict[str, Any]) -> str:
    """The same to read."""
    lines = [
        f"{numbers['videos']} videos, {numbers['frames']} frames, {numbers['instances']} instances "
        f"({numbers['crowds']} crowds besides), {numbers['masks']} masks"
    ]
    if numbers["videos_without_instances"]:
        lines.append(f"{numbers['videos_without_instances']} videos have no instance")
    sizes = [f"{s['height']} x {s['width']} ({s['videos']})" for s in numbers["frame_sizes"]]
    more = f" and {len(sizes) - 6} more" if len(sizes) > 6 else ""
    lines += [f"frame sizes (videos): {', '.join(sizes[:6])}{more}", ""]
    lines.append(f"{'':24}{'min':>8}{'10 %':>8}{'median':>8}{'90 %':>8}{'max':>8}{'mean':>8}")
    for key in ("video_length", "instances_per_video", "visible_share_of_video", "share_of_frame"):
        values = numbers[key]
        if values is not None:
            cells = "".join(f"{value:8.3g}" for value in values.values())
            lines.append(f"{key.replace('_', ' '):24}{cells}")
    width = max([len("class"), *(len(row["name"]) for row in numbers["classes"])])
    lines += ["", f"{'class':{width}}  instances  videos   masks  share of frame"]
    for row in sorted(numbers["classes"], key=lambda row: -row["instances"]):
        share = row["mean_share_of_frame"]
        cell = "-" if share is None else f"{share:.3f}"
        lines.append(
            f"{row['name']:{width}}  {row['instances']:>9}  {row['videos']:>6}  {row['masks']:>6}"
            f"  {cell:>14}"
        )
    return "\n".join(lines)


main = Former("data stats")

if __name__ == "__main__":
    main.console()
