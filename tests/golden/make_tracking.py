"""Make the golden numbers of HOTA, IDF1 and identity switches with TrackEval.

    python -m venv trackeval && trackeval/bin/pip install trackeval==1.3.0 pycocotools
    trackeval/bin/python tests/golden/make_tracking.py

Writes `tests/golden/tracking/<case>.json`: the two files of a case, and what TrackEval says of
them. The cases are drawn from fixed seeds.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 24, 32
FOLDER = Path(__file__).parent / "tracking"


def compressed(mask):
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def listed(mask):
    """The plain run lengths of a mask, as published annotations have them."""
    flat = mask.T.ravel().astype(np.int8)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *counts] if flat[0] else counts}


def box(top, left, height, width):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)] = True
    return mask


class Case:
    """Builds the two files."""

    def __init__(self, lengths, classes):
        self.truth = {
            "videos": [
                {
                    "id": v + 1,
                    "height": HEIGHT,
                    "width": WIDTH,
                    "length": n,
                    "file_names": [f"v{v + 1}/{t:05d}.jpg" for t in range(n)],
                }
                for v, n in enumerate(lengths)
            ],
            "categories": [{"id": k, "name": f"class {k}"} for k in classes],
            "annotations": [],
        }
        self.results = []

    def add_truth(self, video, category, masks, crowd=0):
        annotations = self.truth["annotations"]
        areas = [None if mask is None else int(mask.sum()) for mask in masks]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "video_id": video,
                "category_id": category,
                "iscrowd": crowd,
                "height": HEIGHT,
                "width": WIDTH,
                "areas": areas,
                "segmentations": [None if m is None else listed(m) for m in masks],
            }
        )

    def add_result(self, video, category, masks, score):
        self.results.append(
            {
                "video_id": video,
                "category_id": category,
                "score": score,
                "segmentations": [None if m is None else compressed(m) for m in masks],
            }
        )


def random_case():
    """Objects that move, results that lose, swap and invent them; four kinds of class."""
    rng = np.random.default_rng(0)
    case = Case([6, 9, 1, 12, 5, 4], [1, 2, 5, 7, 9])  # 7: results only, 9: nothing at all
    for video, length in enumerate([6, 9, 1, 12, 5, 4], start=1):
        if video == 6:
            continue  # neither truth nor results
        for category in (1, 2, 5):
            tracks = []
            for _ in range(rng.integers(0, 4)):
                place, size = rng.integers(0, 20, 2), rng.integers(3, 12, 2)
                step = rng.integers(-2, 3, 2)
                tracks.append(
                    [
                        None if rng.random() < 0.15 else box(*(place + t * step), *size)
                        for t in range(length)
                    ]
                )
            for track in tracks:
                case.add_truth(video, category, track, crowd=int(rng.random() < 0.2))
            if category == 5 and video < 4:
                continue  # truth without results
            for track in tracks:
                jitter = rng.integers(-2, 3)
                other = tracks[rng.integers(len(tracks))]
                swap = rng.integers(0, length + 1)
                moved = [*track[:swap], *other[swap:]]
                masks = [
                    None if m is None or rng.random() < 0.2 else np.roll(m, jitter, axis=1)
                    for m in moved
                ]
                case.add_result(video, category, masks, float(rng.random()))
        for category in (2, 7):
            place = rng.integers(0, 20, 2)
            masks = [box(*place, 5, 5) if rng.random() < 0.7 else None for _ in range(length)]
            case.add_result(video, category, masks, 0.3)
    return case


def tie_case():
    """Equal results, equal IoUs, IoUs of exactly a threshold, empty masks and empty frames."""
    case = Case([6, 4, 3], [3, 1])
    square = box(4, 4, 8, 8)
    nothing = np.zeros_like(square)
    case.add_truth(1, 3, [square] * 4 + [None, square])
    for _ in range(3):  # the same three times
        case.add_result(1, 3, [square] * 3 + [None, square, square], 0.5)
    case.add_result(1, 3, [box(4, 8, 8, 8)] * 6, 0.4)  # IoU 1/3 from the right
    case.add_result(1, 3, [box(4, 0, 8, 8)] * 6, 0.4)  # and from the left
    case.add_truth(1, 1, [square] * 6)
    case.add_result(1, 1, [box(4, 4, 8, 4)] * 3 + [box(4, 8, 8, 4)] * 3, 0.9)  # IoU 0.5 exactly
    case.add_result(1, 1, [box(4, 8, 8, 4)] * 3 + [box(4, 4, 8, 4)] * 3, 0.9)
    left, right = box(2, 2, 10, 10), box(2, 7, 10, 10)
    case.add_truth(2, 1, [left, right, left, right])
    case.add_truth(2, 1, [right, left, right, left])
    case.add_result(2, 1, [left] * 4, 0.8)
    case.add_result(2, 1, [right] * 4, 0.8)
    case.add_result(2, 1, [box(2, 4, 10, 10), None, None, box(2, 5, 10, 10)], 0.8)
    case.add_truth(2, 3, [nothing, square, nothing, None])
    case.add_result(2, 3, [nothing, nothing, square, None], 0.7)
    case.add_truth(3, 3, [None, None, None])
    case.add_result(3, 3, [None, square, None], 0.7)
    case.add_result(3, 1, [None, None, None], 0.7)
    return case


def crowded_case():
    """Many tracks of one class over one another: the assignment is not obvious."""
    rng = np.random.default_rng(1)
    case = Case([10, 8], [1])
    for video, length in ((1, 10), (2, 8)):
        tracks = []
        for _ in range(9):
            walk = rng.integers(0, 14, 2) + np.cumsum(rng.integers(-2, 3, (length, 2)), axis=0)
            tracks.append([box(*place, 9, 11) for place in walk])
        for track in tracks:
            case.add_truth(video, 1, [m if rng.random() < 0.9 else None for m in track])
        for _ in range(14):
            chosen = rng.integers(len(tracks), size=length // 3 + 1).repeat(3)
            shift = rng.integers(-2, 3, 2)
            masks = [
                np.roll(tracks[chosen[t]][t], tuple(shift), (0, 1)) if rng.random() < 0.9 else None
                for t in range(length)
            ]
            case.add_result(video, 1, masks, float(rng.random()))
    return case


def judged(case):
    """What TrackEval says, by class name, and for both of its averages."""
    import trackeval

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        base = Path(folder)
        truth = base / "gt" / "youtube_vis_val"
        made = base / "trackers" / "youtube_vis_val" / "ours" / "data"
        truth.mkdir(parents=True)
        made.mkdir(parents=True)
        (truth / "gt.json").write_text(json.dumps(case.truth))
        (made / "results.json").write_text(json.dumps(case.results))
        dataset = trackeval.datasets.YouTubeVIS(
            {
                "GT_FOLDER": f"{base / 'gt'}/",
                "TRACKERS_FOLDER": f"{base / 'trackers'}/",
                "SPLIT_TO_EVAL": "val",
            }
        )
        quiet = {"PRINT_RESULTS": False, "OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False}
        evaluator = trackeval.Evaluator({**quiet, "PLOT_CURVES": False})
        metrics = [
            trackeval.metrics.HOTA(),
            trackeval.metrics.Identity(),
            trackeval.metrics.CLEAR(),
        ]
        everything, _ = evaluator.evaluate([dataset], metrics)
    combined = everything["YouTubeVIS"]["ours"]["COMBINED_SEQ"]
    curves = ("HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA")
    return {
        name: {
            **{key: np.asarray(numbers["HOTA"][key]).tolist() for key in curves},
            **{key: float(numbers["Identity"][key]) for key in ("IDF1", "IDP", "IDR")},
            "IDSW": int(numbers["CLEAR"]["IDSW"]),
        }
        for name, numbers in combined.items()
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, make in (("random", random_case), ("ties", tie_case), ("crowded", crowded_case)):
        case = make()
        content = {"truth": case.truth, "results": case.results, "expected": judged(case)}
        (FOLDER / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
