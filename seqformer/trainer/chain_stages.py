"""The stages of a chain: what each makes of which files, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqformer.config import TrainConfig, override
from seqformer.config.chain import (
    DEMO_SIZE,
    DEMO_STILLS,
    DEMO_STILLS_HELD_OUT,
    DEMO_VIDEO_LENGTH,
    DEMO_VIDEOS,
    DEMO_VIDEOS_HELD_OUT,
    ChainOptions,
)
from seqformer.data.synthetic import make_synthetic_dataset
from seqformer.data.synthetic_stills import make_synthetic_stills
from seqformer.tools.coco_to_ytvis import convert_file
from seqformer.trainer.chain_data import ChainData, drawn_data, find_data
from seqformer.trainer.trainer import WEIGHTS_NAME

PSEUDO_NAME = "pseudo_videos.json"


@dataclass(frozen=True)
class TrainingStage:
    """A run, in a folder of its own.

    Attributes:
        name: in the chain's state, and the end of the folder's name.
        config: the run.
    """

    name: str
    config: TrainConfig


@dataclass(frozen=True)
class FileStage:
    """Files that one process makes while the others wait; made again, they are the same.

    Attributes:
        name: in the chain's state.
        says: what it does.
        settings: what decides the files, plain JSON types.
        make: does it.
    """

    name: str
    says: str
    settings: dict[str, Any]
    make: Callable[[], Any]


Stage = TrainingStage | FileStage


def data_of(options: ChainOptions) -> ChainData:
    """The data of a chain."""
    if options.demo:
        return drawn_data(options.output / "data")
    assert options.coco is not None and options.ytvis is not None  # see `ChainOptions`
    return find_data(options.coco, options.ytvis)


def stages_of(options: ChainOptions, stills: TrainConfig, videos: TrainConfig) -> list[Stage]:
    """All stages in order.

    Args:
        stills: settings of the first training stage; paths and start are set here.
        videos: likewise of the second.
    """
    data, output = data_of(options), options.output
    first, second = output / "1_stills", output / "2_videos"
    pseudo = output / PSEUDO_NAME
    of_stills = replace(stills.data, **vars(data.stills))
    of_videos = replace(
        videos.data,
        **vars(data.videos),
        coco_images=data.stills.train_images,
        coco_annotations=pseudo,
    )
    by_name = options.demo or options.categories == "by_name"
    stages: list[Stage] = [
        TrainingStage("stills", override(stills, output=first, data=of_stills, auto_resume=True)),
        FileStage(
            "pseudo_videos",
            f"{pseudo}: the instances of {data.stills.train_annotations} whose category the videos "
            "have",
            {"categories": "by_name" if by_name else options.categories},
            lambda: convert_file(
                data.stills.train_annotations,
                pseudo,
                "2019" if options.categories == "by_name" else options.categories,
                data.videos.train_annotations if by_name else None,
            ),
        ),
        TrainingStage(
            "videos",
            override(
                videos,
                output=second,
                data=of_videos,
                auto_resume=True,
                weights=first / WEIGHTS_NAME,
            ),
        ),
    ]
    if options.demo:
        stages.insert(0, _drawing(output / "data"))
    return stages


def _drawing(folder: Path) -> FileStage:
    height, width = DEMO_SIZE
    size = {"height": height, "width": width, "seed": 0}
    stills: dict[str, Any] = {"num_train": DEMO_STILLS, "num_val": DEMO_STILLS_HELD_OUT, **size}
    videos: dict[str, Any] = {
        **{"num_train": DEMO_VIDEOS, "num_val": DEMO_VIDEOS_HELD_OUT},
        **{"num_frames": DEMO_VIDEO_LENGTH, **size},
    }

    def make() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        make_synthetic_stills(folder / "stills", **stills)
        make_synthetic_dataset(folder / "videos", **videos)

    return FileStage(
        "drawing", f"{folder}: pictures and videos", {"stills": stills, "videos": videos}, make
    )
