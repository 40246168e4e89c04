"""Training clips from JPEG files: our loader beside the published way of making a clip.

Both make clips of T = 5 with the published augmentation, one process, one thread, from the same
drawn 720 x 1280 frames and the same annotation file, whose masks are uncompressed run lengths as in
YouTube-VIS, over the same items in the same order. Augmentation is random, so what sides must agree
on is a clip that is only resized: every call returns the one that its side made before the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image
import torch
from torch import Tensor

from bench.baselines.published_loader import PublishedClips, resize, to_tensor
from bench.baselines.published_loader import collate as published_collate
from bench.suite.schema import Call, Case, Side, Size
from bench.suite.scratch import drawn
from seqformer.annotations.run_lengths import read_runs
from seqformer.config import AugmentConfig, DataConfig
from seqformer.data.clip_dataset import ConcatClipDataset
from seqformer.data.collate import collate
from seqformer.data.loader import build_train_loader
from seqformer.data.sampling import SampleKey
from seqformer.data.synthetic import SyntheticPaths, make_synthetic_dataset
from seqformer.data.synthetic_drawing import SyntheticConfig

NUM_FRAMES = 5
PLAIN = AugmentConfig(flip_prob=0, photometric=False, crop_prob=0, short_sides=(320,))
PLAIN_ITEM = 3


class Videos(NamedTuple):
    """How many, and how long."""

    num_videos: int
    num_frames: int


def cases(size: Size) -> Iterator[Case]:
    if size == "smoke":
        yield loader_case(Videos(1, 6), clips=1, rounds=1)
    elif size == "cpu":
        yield loader_case(Videos(6, 20), clips=8, rounds=15)


def loader_case(videos: Videos, clips: int, rounds: int) -> Case:
    """`clips` clips a call, so that no call is all small frames or all large ones."""
    sides = {"ours": _ours, "published": _published}
    return Case(
        name=f"loader T={NUM_FRAMES} 720x1280, {clips} clips",
        op="loader",
        group="data",
        shapes={"B": clips, "T": NUM_FRAMES, "H": 720, "W": 1280},
        units=("clips", clips),
        sides=tuple(
            Side(name=name, build=partial(build, videos, clips)) for name, build in sides.items()
        ),
        rounds=rounds,
        tolerance=1e-6,
    )


def _ours(videos: Videos, clips: int, device: torch.device) -> Call:
    images, annotations = _files(videos)
    data = _our_clips(images, annotations, AugmentConfig())
    sample = _our_clips(images, annotations, PLAIN)[SampleKey(0, PLAIN_ITEM)]
    plain = {"images": sample.images, "masks": sample.targets["masks"]}

    def one(item: int) -> None:
        collate([data[SampleKey(0, item)]])

    return _call(one, len(data), clips, plain)


def _published(videos: Videos, clips: int, device: torch.device) -> Call:
    images, annotations = _files(videos)
    data = PublishedClips(images, annotations, num_frames=NUM_FRAMES)

    def one(item: int) -> None:
        published_collate([data[item]])

    return _call(one, len(data), clips, _published_plain(images, annotations, data))


def _call(one: Callable[[int], None], num_items: int, clips: int, plain: dict[str, Tensor]) -> Call:
    order = np.random.default_rng(1)
    cv2.setNumThreads(0)

    def make() -> dict[str, Tensor]:
        for item in order.integers(num_items, size=clips).tolist():
            one(item)
        return plain

    return make


def _our_clips(images: Path, annotations: Path, augment: AugmentConfig) -> ConcatClipDataset:
    """Our data set of the files, as a training run makes it."""
    config = DataConfig(
        train_images=images,
        train_annotations=annotations,
        num_workers=0,
        batch_size=1,
        annotation_cache=None,
        augment=augment,
    )
    return build_train_loader(config, seed=0)[0].dataset


def _published_plain(
    images: Path, annotations: Path, published: PublishedClips
) -> dict[str, Tensor]:
    """The published way's version of the clip that ours is only resized for; ours names the
    frames, which it chooses at random, and the instances that it keeps."""
    sample = _our_clips(images, annotations, PLAIN)[SampleKey(0, PLAIN_ITEM)]
    frames = [int(f) for f in sample.id.split("frames ")[1].split()]
    video = next(v for v in published.videos if sample.id.startswith(f"video {v['id']},"))
    clip = [PIL.Image.open(images / video["file_names"][f]).convert("RGB") for f in frames]
    clip, target = resize(clip, published.target(video, frames, clip[0].size), 320, 768)
    pixels = torch.stack([to_tensor(image) for image in clip])
    masks = target["masks"].reshape(-1, len(frames), *pixels.shape[-2:])
    return {"images": pixels, "masks": masks[: len(sample.targets["masks"])]}


def _files(videos: Videos) -> tuple[Path, Path]:
    """Image folder and annotation file."""
    folder = drawn(draw_videos, *videos)
    return SyntheticPaths.under(folder / "videos").train_images, folder / "annotations.json"


def draw_videos(folder: Path, num_videos: int, num_frames: int) -> None:
    """Videos of 720 x 1280 pixels with one to three objects of 110 to 330 pixels."""
    paths = make_synthetic_dataset(
        folder / "videos",
        num_train=num_videos,
        num_val=1,
        num_frames=num_frames,
        height=720,
        width=1280,
        seed=0,
        config=SyntheticConfig(size=(0.15, 0.45)),
    )
    content = json.loads(paths.train_annotations.read_text())
    for annotation in content["annotations"]:
        for segmentation in filter(None, annotation["segmentations"]):
            height, width = segmentation["size"]
            runs = read_runs([segmentation["counts"]], [height * width])
            numbers = np.stack([runs.zeros, runs.ones], axis=1).ravel().tolist()
            segmentation["counts"] = numbers if numbers[-1] else numbers[:-1]
    (folder / "annotations.json").write_text(json.dumps(content))
