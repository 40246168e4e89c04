"""The settings of both stages as one run, and the small ones that it is shown with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from seqformer.config.eval import STILLS
from seqformer.config.execution import CheckpointConfig
from seqformer.config.presets import presets
from seqformer.config.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """From ImageNet weights to a results file: pictures of COCO first, then videos.

    seqformer chain --coco COCO_FOLDER --ytvis YTVIS_FOLDER --output runs/chain trains the preset
    r50_coco, makes the annotation file of the pseudo-videos, trains r50 from what the first stage
    has learnt, and leaves model.safetensors and results.json in the output folder. The same command
    goes on where it stopped. Options of `seqformer train` go to one stage, or to both:
    --stills.max-steps 100 --videos.optim.lr 1e-4 --both.precision bf16.
    """

    coco: Path | None = None
    """Folder with train2017, val2017 and annotations/instances_*2017.json."""
    ytvis: Path | None = None
    """Folder with train/JPEGImages, valid/JPEGImages and an annotation file of each, as YouTube-VIS
    is distributed."""
    output: Path = Path("runs/chain")
    """Folder of the chain; each stage has one of its own in it."""
    recipe: Literal["r50", "r101", "x101", "swin_l"] = "r50"
    """Presets of the stages: this one, and the same with _coco."""
    categories: Literal["2019", "2019_published", "2021", "ovis", "by_name"] = "2019"
    """Which categories of COCO are which of the videos. by_name: those with the same name, for
    videos of your own."""
    demo: bool = False
    """Draw pictures and videos, and train a small model on them: minutes on two CPU cores."""
    dry_run: bool = False
    """Say what would happen, how long it is, what memory it takes and what is missing; no more."""

    def __post_init__(self) -> None:
        if self.demo and (self.coco is not None or self.ytvis is not None):
            raise ValueError("--demo draws its own data; leave out --coco and --ytvis")
        if not self.demo and (self.coco is None or self.ytvis is None):
            raise ValueError("give the folders --coco and --ytvis, or --demo")


def stage_presets(options: ChainOptions) -> tuple[TrainConfig, TrainConfig]:
    """The configs of both stages, without paths."""
    known = presets()
    if not options.demo:
        stills, videos = (known[options.recipe + suffix][1] for suffix in ("_coco", ""))
        if options.categories == "by_name":
            videos = replace(videos, data=replace(videos.data, class_layout="from_data"))
        return stills, videos
    demo = known["demo"][1]
    small = TrainConfig(
        seed=demo.seed,
        logging=demo.logging,
        checkpoint=CheckpointConfig(checkpoint_every=200),
        model=demo.model,
        # The stage before is that of pictures.
        data=replace(demo.data, single_frame_steps=0, batch_size=4),
        optim=known["mini"][1].optim,
        eval=demo.eval,
        max_steps=900,
    )
    stills = replace(
        small,
        max_steps=600,
        data=replace(small.data, layout="stills", num_frames=1),
        eval=replace(STILLS, short_side=64),
    )
    return stills, small


DEMO_STILLS, DEMO_STILLS_HELD_OUT = 1000, 100
DEMO_VIDEOS, DEMO_VIDEOS_HELD_OUT, DEMO_VIDEO_LENGTH = 200, 40, 8
DEMO_SIZE = (96, 144)
"""Height and width of what the demo draws."""
