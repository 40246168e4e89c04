"""Clips per second and core of our loader, beside the published way of making a clip.

    python -m bench.loader                                   # on a drawn set of 720 x 1280 frames
    python -m bench.loader --images F --annotations F.json   # on your own files
    python -m bench.loader --out bench/results/cpu/loader.json

Both make clips of T = 5 with the published augmentation from the same JPEG files and the same
annotation file, whose masks are uncompressed run lengths as in YouTube-VIS, one clip each in turns,
in one process on one thread. The number is processor seconds per clip. The baseline is
`bench/published_loader.py`. Before anything is timed, both must give the same clip where
augmentation is a plain resize.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import cv2
import numpy as np
import PIL
import torch
import tyro

from bench.published_loader import PublishedClips, resize, to_tensor
from bench.published_loader import collate as published_collate
from seqformer.config import AugmentConfig, DataConfig
from seqformer.data.clips import JointClips
from seqformer.data.loader import build_train_loader, collate
from seqformer.data.sampling import ItemKey
from seqformer.data.segmentation import mask_runs
from seqformer.data.synthetic import make_synthetic_dataset
from seqformer.data.synthetic_drawing import SyntheticConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time our loader and the published way of making a clip on the same files."""

    images: Path | None = None
    """Image folder of your own videos; default a drawn set."""
    annotations: Path | None = None
    """Their annotation file (uncompressed or polygon masks, which the baseline can read)."""
    clips: int = 120
    """Clips that each makes."""
    warm_up: int = 5
    """Clips before those."""
    out: Path | None = None
    """Write the measurements as JSON here."""


def draw_files(root: Path) -> tuple[Path, Path]:
    """Six videos of 20 frames 720 x 1280 with one to three objects of 110 to 330 pixels."""
    config = SyntheticConfig(size=(0.15, 0.45))
    paths = make_synthetic_dataset(
        root, num_train=6, num_val=1, num_frames=20, height=720, width=1280, seed=0, config=config
    )
    content = json.loads(paths.train_annotations.read_text())
    for annotation in content["annotations"]:
        for segmentation in filter(None, annotation["segmentations"]):
            runs = mask_runs(segmentation["counts"], *segmentation["size"])
            segmentation["counts"] = runs.tolist()
    file = root.with_suffix(".json")
    file.write_text(json.dumps(content))
    return paths.train_images, file


def our_clips(images: Path, annotations: Path, augment: AugmentConfig) -> JointClips:
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


def check_same_pixels(images: Path, annotations: Path, published: PublishedClips) -> None:
    """Both ways must agree on a clip that is only resized. Raises: AssertionError."""
    plain = AugmentConfig(flip_prob=0, photometric=False, crop_prob=0, short_sides=(320,))
    sample = our_clips(images, annotations, plain)[ItemKey(0, 3)]
    frames = [int(f) for f in sample.id.split("frames ")[1].split()]
    video = next(v for v in published.videos if sample.id.startswith(f"video {v['id']},"))
    clip = [PIL.Image.open(images / video["file_names"][f]).convert("RGB") for f in frames]
    clip, target = resize(clip, published._target(video, frames, clip[0].size), 320, 768)
    theirs = torch.stack([to_tensor(image) for image in clip])
    assert torch.allclose(sample.images, theirs, atol=1e-6), "frames differ"
    kept = target["masks"].reshape(-1, len(frames), *theirs.shape[-2:])
    assert torch.equal(sample.targets["masks"], kept[: len(sample.targets["masks"])]), (
        "masks differ"
    )


def seconds(make: Callable[[int], Any], item: int) -> float:
    """Processor seconds of one clip."""
    start = time.process_time()
    make(item)
    return time.process_time() - start


def measure(images: Path, annotations: Path, options: Options) -> dict[str, Any]:
    """Time both in turns over the same items in the same order."""
    published = PublishedClips(images, annotations, num_frames=5)
    check_same_pixels(images, annotations, published)
    clips = our_clips(images, annotations, AugmentConfig())
    makers = {
        "ours": lambda item: collate([clips[ItemKey(0, item)]]),
        "published": lambda item: published_collate([published[item]]),
    }
    items = np.random.default_rng(1).integers(len(clips), size=options.warm_up + options.clips)
    times: dict[str, list[float]] = {name: [] for name in makers}
    for number, item in enumerate(items.tolist()):
        for name, make in makers.items():
            taken = seconds(make, item)
            if number >= options.warm_up:
                times[name].append(taken)
    mean = {name: statistics.fmean(values) for name, values in times.items()}
    return {
        "clips_per_second_per_core": {name: 1 / value for name, value in mean.items()},
        "cpu_ms_per_clip": {
            name: {
                "mean": 1e3 * mean[name],
                "p20": 1e3 * float(np.quantile(values, 0.2)),
                "median": 1e3 * statistics.median(values),
                "p80": 1e3 * float(np.quantile(values, 0.8)),
            }
            for name, values in times.items()
        },
        "speedup": mean["published"] / mean["ours"],
        "clips": options.clips,
    }


def machine() -> dict[str, str]:
    """What ran it."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"cpu": name, **versions, "pillow": PIL.__version__, "opencv": cv2.__version__}


def main(options: Options) -> None:
    """Measure, print, write."""
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        if options.images is not None and options.annotations is not None:
            images, annotations = options.images, options.annotations
        else:
            images, annotations = draw_files(Path(folder) / "drawn")
        result = {"machine": machine(), **measure(images, annotations, options)}
    for name, value in result["clips_per_second_per_core"].items():
        print(f"{name:10} {value:6.2f} clips per second and core")
    print(f"ratio      {result['speedup']:6.2f}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m bench.loader")))
