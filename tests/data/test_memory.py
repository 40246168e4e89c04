"""What an annotation file of the size of YouTube-VIS costs each loading process."""

from __future__ import annotations

import json
from dataclasses import replace
from multiprocessing import active_children, get_context, set_start_method
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqformer.annotations import cache
from seqformer.config import AugmentConfig, DataConfig
from seqformer.data.loader import build_train_loader

HEIGHT, WIDTH = 720, 1280
FULL = {"num_videos": 2238, "num_frames": 62_000, "num_tracks": 3774}
"""YouTube-VIS 2019's training set."""


def blob_runs(rng: np.random.Generator) -> list[int]:
    """Plain run lengths of a rough ellipse."""
    half_width, half_height = int(rng.integers(60, 250)), int(rng.integers(60, 300))
    x0 = int(rng.integers(0, WIDTH - 2 * half_width))
    y0 = int(rng.integers(half_height, HEIGHT - half_height))
    x = np.arange(1, 2 * half_width) / half_width - 1
    reach = (half_height * np.sqrt(1 - x**2) * rng.uniform(0.9, 1, x.size)).astype(int) + 1
    starts = (x0 + np.arange(x.size)) * HEIGHT + y0 - reach
    edges = np.stack([starts, starts + 2 * reach - 1], axis=1).ravel()
    return np.diff(np.concatenate([[0], edges, [HEIGHT * WIDTH]])).tolist()


def write_set(root: Path, num_videos: int, num_frames: int, num_tracks: int) -> DataConfig:
    """An annotation file with masks in every frame, and one picture that all frames share."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "frame.jpg")
    shapes = [blob_runs(rng) for _ in range(50)]
    lengths = np.full(num_videos, num_frames // num_videos)
    lengths[: num_frames % num_videos] += 1
    videos = [
        # Paths as long as real ones.
        {"id": v, "height": HEIGHT, "width": WIDTH, "file_names": ["./" * 8 + "frame.jpg"] * n}
        for v, n in enumerate(lengths.tolist(), start=1)
    ]
    annotations = []
    for track in range(num_tracks):
        video = videos[track % num_videos]
        masks = [shapes[int(s)] for s in rng.integers(50, size=len(video["file_names"]))]
        annotations.append(
            {
                "id": track + 1,
                "video_id": video["id"],
                "category_id": track % 40 + 1,
                "iscrowd": 0,
                "bboxes": [[10.5, 20.25, 300.0, 200.0] for _ in masks],
                "segmentations": [{"size": [HEIGHT, WIDTH], "counts": m} for m in masks],
            }
        )
    categories = [{"id": i, "name": f"c{i}"} for i in range(1, 41)]
    content = {"videos": videos, "annotations": annotations, "categories": categories}
    (root / "a.json").write_text(json.dumps(content))
    return DataConfig(
        train_images=root / "images",
        train_annotations=root / "a.json",
        annotation_cache=root / "cache",
        num_frames=2,
        num_workers=0,
        augment=AugmentConfig(
            photometric=False, crop_prob=0.0, short_sides=(32,), max_long_side=64
        ),
    )


def pss_mb(process: int | str) -> float:
    """Proportional set size of a process."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _measure(config: DataConfig, num_workers: int, connection) -> None:
    """PSS of each worker after it has read masks from all over the file."""
    set_start_method("fork", force=True)  # what a training process has; here the parent's is spawn
    config = replace(config, num_workers=num_workers)
    loader, _ = build_train_loader(config, seed=0)
    batches = iter(loader)
    for _ in range(min(30, len(loader))):
        next(batches)
    connection.send([pss_mb(worker.pid) for worker in active_children()])
    del batches  # ends the workers


def worker_pss(config: DataConfig, num_workers: int = 2) -> float:
    """Mean PSS of the workers of a fresh training process."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(config, num_workers, sender))
    process.start()
    sender.close()
    values = receiver.recv()
    process.join()
    return sum(values) / len(values)


def check(tmp_path: Path, sizes: dict[str, int], cached: bool) -> None:
    one = write_set(tmp_path / "one", 1, 28, 2)
    many = write_set(tmp_path / "many", **sizes)
    if not cached:
        many = replace(many, annotation_cache=None)
    # The first pass writes the cache, the second reads it; both must be small.
    base = worker_pss(one)
    for _ in range(2 if cached else 1):
        extra = worker_pss(many) - base
        assert extra < 50, f"{extra:.0f} MB more than a set of one video"


@pytest.mark.slow
@pytest.mark.parametrize("cached", [True, False])
def test_a_worker_costs_little_more_for_all_of_youtube_vis(tmp_path, cached):
    check(tmp_path, FULL, cached)


def test_a_worker_costs_little_more_for_a_thirtieth_of_youtube_vis(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SMALLEST_CACHED", 0)
    sizes = {name: value // 30 for name, value in FULL.items()}
    one = write_set(tmp_path / "one", 1, 28, 2)
    many = write_set(tmp_path / "many", **sizes)
    assert worker_pss(many) - worker_pss(one) < 15
    assert list((tmp_path / "many" / "cache").glob("*.safetensors"))
