"""A ground truth and a results file of the size of the YouTube-VIS validation set, from a seed.

302 videos, 8,107 frames of 720 x 1280, 40 classes, ten predictions per video, nine in ten frames of
each with a mask.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from seqformer.annotations.run_lengths import read_runs

HEIGHT, WIDTH = 720, 1280
NUM_VIDEOS, NUM_FRAMES, NUM_CLASSES = 302, 8107, 40
RESULTS_PER_VIDEO = 10
MASK_SHARE = 0.9
MAX_LENGTH = 36

TruthForm = Literal["runs", "text"]
"""Ground truth as uncompressed run lengths, like the published files, or compressed."""


class Blob:
    """A smooth outline that drifts, breathes and changes shape over the frames of a video."""

    def __init__(self, rng: np.random.Generator, num_frames: int) -> None:
        time = np.linspace(0, 1, num_frames)
        self.center = np.stack(
            [
                _drift(rng, time, WIDTH * rng.uniform(0.15, 0.85), 120),
                _drift(rng, time, HEIGHT * rng.uniform(0.2, 0.8), 60),
            ],
            axis=1,
        )  # [T, 2]
        size = np.exp(rng.normal(np.log(115), 0.55))
        self.radius = size * np.exp(_drift(rng, time, 0, 0.15))
        self.aspect = rng.uniform(0.5, 1.8)
        waves = np.arange(2, 12)
        self.amplitude = rng.normal(0, 0.35, waves.size) / waves
        self.phase = np.stack([_drift(rng, time, rng.uniform(0, 6), 0.8) for _ in waves], axis=1)

    def masks(
        self, shift: np.ndarray, scale: float, roughness: float, rng: np.random.Generator
    ) -> list[dict[str, Any]]:
        """One RLE per frame of the outline moved by `shift`, resized and roughened."""
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        waves = np.arange(2, 12)[:, None]
        masks = []
        for center, radius, phase in zip(self.center, self.radius, self.phase, strict=True):
            outline = 1 + self.amplitude @ np.cos(waves * angle + phase[:, None])
            outline = np.maximum(outline + rng.normal(0, roughness, angle.size), 0.1)
            reach = radius * scale * outline
            x = center[0] + shift[0] + reach * np.cos(angle) * np.sqrt(self.aspect)
            y = center[1] + shift[1] + reach * np.sin(angle) / np.sqrt(self.aspect)
            polygon = np.stack([x.clip(0, WIDTH), y.clip(0, HEIGHT)], axis=1).ravel()
            masks.append(coco_mask.frPyObjects([polygon.tolist()], HEIGHT, WIDTH)[0])
        return masks


def _drift(rng: np.random.Generator, time: np.ndarray, start: float, reach: float) -> np.ndarray:
    """A smooth random path around `start`."""
    return start + reach * (
        rng.normal() * time + rng.normal() * np.sin(2 * np.pi * (time + rng.uniform()))
    )


def draw_files(folder: Path, truth_form: TruthForm, num_videos: int = NUM_VIDEOS) -> None:
    """Write annotations.json and results.json; a few videos are the first of all of them."""
    rng = np.random.default_rng(0)
    videos, annotations, results = [], [], []
    for number, length in enumerate(_video_lengths(rng)[:num_videos], start=1):
        videos.append({"id": number, "height": HEIGHT, "width": WIDTH, "length": int(length)})
        instances = []
        category = int(rng.integers(1, NUM_CLASSES + 1))
        for _ in range(rng.choice(4, p=[0.55, 0.27, 0.12, 0.06]) + 1):
            if rng.random() < 0.4:
                category = int(rng.integers(1, NUM_CLASSES + 1))
            blob = Blob(rng, length)
            instances.append((blob, category))
            masks = blob.masks(np.zeros(2), 1, 0.01, rng)
            absent = _absences(rng, length)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": number,
                    "category_id": category,
                    "iscrowd": 0,
                    "segmentations": [
                        None if gone else _truth_mask(mask, truth_form)
                        for mask, gone in zip(masks, absent, strict=True)
                    ],
                    "areas": [
                        None if gone else int(coco_mask.area(mask))
                        for mask, gone in zip(masks, absent, strict=True)
                    ],
                }
            )
        for rank in range(RESULTS_PER_VIDEO):
            # The first result of every instance is good, later ones are duplicates, other classes
            # of the same query, or something else entirely, as in the top ten of a real model.
            blob, category = instances[rank % len(instances)]
            if rank >= len(instances) and rng.random() < 0.25:
                blob = Blob(rng, length)
            if rank >= len(instances) and rng.random() < 0.5:
                category = int(rng.integers(1, NUM_CLASSES + 1))
            error = rng.exponential(0.02 if rank < len(instances) else 0.12)
            masks = blob.masks(
                rng.normal(0, 150 * error, 2), np.exp(rng.normal(0, error)), 0.03, rng
            )
            results.append(
                {
                    "video_id": number,
                    "category_id": category,
                    "score": float(np.exp(-3 * error) * rng.uniform(0.5, 1)),
                    "segmentations": [
                        None if gone else _text(mask)
                        for mask, gone in zip(masks, _absences(rng, length), strict=True)
                    ],
                }
            )
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, NUM_CLASSES + 1)]
    truth = {"videos": videos, "categories": categories, "annotations": annotations}
    for name, content in (("annotations", truth), ("results", results)):
        text = json.dumps(content, separators=(",", ":"))
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def _video_lengths(rng: np.random.Generator) -> np.ndarray:
    lengths = rng.integers(17, MAX_LENGTH + 1, NUM_VIDEOS)
    while (surplus := int(lengths.sum()) - NUM_FRAMES) != 0:
        chosen = rng.integers(NUM_VIDEOS)
        lengths[chosen] = np.clip(lengths[chosen] - np.sign(surplus), 4, MAX_LENGTH)
    return lengths


def _absences(rng: np.random.Generator, length: int) -> np.ndarray:
    """[T] bool: some instances enter late or leave early."""
    absent = np.zeros(length, bool)
    num_absent = rng.binomial(length, min(1.0, rng.exponential(1 - MASK_SHARE)))
    absent[:num_absent] = True
    return absent[::-1] if rng.random() < 0.5 else absent


def _text(mask: dict[str, Any]) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": mask["counts"].decode("ascii")}


def _truth_mask(mask: dict[str, Any], truth_form: TruthForm) -> dict[str, Any]:
    text = _text(mask)
    if truth_form == "text":
        return text
    pairs = read_runs([text["counts"]], [HEIGHT * WIDTH])
    runs = np.stack([pairs.zeros, pairs.ones], axis=1).ravel().tolist()
    return {"size": text["size"], "counts": runs if runs[-1] else runs[:-1]}


def draw_many(folder: Path, num_results: int) -> None:
    """Write annotations.json and results.json: short videos of 90 x 160 with very many results of
    rectangles, as a detector with a low threshold gives them."""
    rng = np.random.default_rng(0)
    height, width, frames, num_videos = 90, 160, 4, 500
    bank: list[dict[str, Any] | None] = [None] * 10
    for _ in range(2000):
        (h, w), (top, left) = rng.integers(8, 50, 2), rng.integers(0, (height - 50, width - 50))
        box = [float(v) for v in (left, top, left + w, top, left + w, top + h, left, top + h)]
        mask = coco_mask.frPyObjects([box], height, width)[0]
        bank.append({"size": [height, width], "counts": mask["counts"].decode("ascii")})
    texts = [json.dumps(mask, separators=(",", ":")) for mask in bank]

    def entry(video: int, **more: Any) -> str:
        masks = ",".join(texts[i] for i in rng.integers(0, len(texts), frames))
        ids = {"video_id": video, "category_id": int(rng.integers(1, NUM_CLASSES + 1))}
        plain = json.dumps({**ids, **more}, separators=(",", ":"))
        return f'{plain[:-1]},"segmentations":[{masks}]}}'

    names = [f"{t}.jpg" for t in range(frames)]
    videos = [
        {"id": v, "height": height, "width": width, "file_names": names}
        for v in range(1, num_videos + 1)
    ]
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, NUM_CLASSES + 1)]
    head = json.dumps({"videos": videos, "categories": categories})[:-1]
    truth = (
        entry(i // 4 + 1, id=i + 1, iscrowd=0, areas=[100] * frames) for i in range(4 * num_videos)
    )
    (folder / "annotations.json").write_text(f'{head},"annotations":[{",".join(truth)}]}}')
    with (folder / "results.json").open("w", encoding="utf-8") as file:
        for i in range(num_results):
            score = float(rng.random())
            file.write(("," if i else "[") + entry(i * num_videos // num_results + 1, score=score))
        file.write("]")
