"""The settings of the training data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from seqformer.config.fields import MAY_CHANGE


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Training augmentation, the same geometry for all frames of a clip. Defaults as published."""

    flip_prob: float = 0.5
    """Probability of a horizontal flip."""
    photometric: bool = True
    """Brightness, contrast, saturation, hue and channel order, drawn per frame."""
    short_sides: tuple[int, ...] = (288, 320, 352, 392, 416, 448, 480, 512)
    """Candidate lengths of the shorter side in pixels."""
    max_long_side: int = 768
    """Upper bound of the longer side in pixels."""
    crop_prob: float = 0.5
    """Probability of resize, crop, resize instead of one resize."""
    crop_resize_short_sides: tuple[int, ...] = (400, 500, 600)
    """Candidate lengths of the shorter side before cropping."""
    crop_min: int = 384
    """Smallest crop side in pixels."""
    crop_max: int = 600
    """Largest crop side in pixels."""

    def without_photometric(self) -> AugmentConfig:
        """The same geometry alone."""
        return replace(self, photometric=False)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the clips come from."""

    layout: Literal["videos", "stills"] = "videos"
    """What the training and the validation file list. videos: YouTube-VIS layout. stills: pictures
    in COCO layout, as `instances_train2017.json` is; a clip is one picture (with `num_frames` above
    1 a pseudo-video of it), and the scores are COCO's."""
    train_images: Path = field(default=Path("data/ytvis2019/train/JPEGImages"), metadata=MAY_CHANGE)
    """Folder that the training annotation's `file_names` are relative to."""
    train_annotations: Path = field(
        default=Path("data/ytvis2019/annotations/instances_train_sub.json"), metadata=MAY_CHANGE
    )
    """Training annotation file."""
    more_images: tuple[Path, ...] = field(default=(), metadata=MAY_CHANGE)
    """Image folders of further video sets to train on jointly."""
    more_annotations: tuple[Path, ...] = field(default=(), metadata=MAY_CHANGE)
    """Their annotation files, one per folder; categories with the same id must be the same."""
    coco_images: Path | None = field(default=None, metadata=MAY_CHANGE)
    """Folder of still images (train2017) that become pseudo-videos; none trains on videos alone."""
    coco_annotations: Path | None = field(default=None, metadata=MAY_CHANGE)
    """Annotation file of the still images, as `seqformer data coco-to-ytvis` makes it."""
    coco_categories: Literal["as_is", "2019", "2019_published", "2021", "ovis"] = "as_is"
    """Category map for a file that has COCO's own ids (only of mapped categories). as_is: the file
    has the ids of the videos' categories."""
    sampling_weights: tuple[float, ...] = ()
    """Shares of the sets in an epoch: training set, further sets, still images. Empty: every frame
    and every still image once, as published."""
    annotation_cache: Path | None = field(default=Path("~/.cache/seqformer"), metadata=MAY_CHANGE)
    """Folder for a compact form of the annotation files that all processes of a machine share;
    none makes a temporary one for each training process."""
    val_images: Path | None = field(default=None, metadata=MAY_CHANGE)
    """Frames folder of the validation set; none means no validation during training."""
    val_annotations: Path | None = field(default=None, metadata=MAY_CHANGE)
    """Validation annotation file; it must hold `annotations` to give an AP."""
    class_layout: Literal["from_data", "published"] = "from_data"
    """from_data: one output per category of the annotation file, any ids. published: output index =
    category id, as released weights have it; 42 outputs for videos, 91 for stills."""
    num_frames: int = 5
    """T, frames per clip."""
    single_frame_steps: int = 0
    """In the first so many steps of a run clips are single frames, whose steps cost less: what a
    stage on pictures before that on videos does, in one run."""
    frame_range: int = 3
    """How far the two neighbours of a sampled frame may lie from it, in frames."""
    frame_choice: Literal["published", "window"] = "published"
    """Where the other frames of a clip come from. published: two neighbours, the rest from the
    whole video. window: all from up to `frame_range` before and after, some perhaps twice, as in
    VNext."""
    batch_size: int = field(default=2, metadata=MAY_CHANGE)
    """Clips that a process holds at once."""
    global_batch_size: int = field(default=0, metadata=MAY_CHANGE)
    """Clips of one optimiser step over all processes, a multiple of their number. A process whose
    share exceeds `batch_size` accumulates gradients. 0: `batch_size` times the processes."""
    num_workers: int = field(default=4, metadata=MAY_CHANGE)
    """Decoding processes per training process; 0 decodes in the training process."""
    cache_frames: bool = field(default=False, metadata=MAY_CHANGE)
    """Keep decoded frames and masks in memory (small sets only)."""
    presence: Literal["mask", "box"] = "mask"
    """What decides whether an instance is in a frame. mask: its mask has pixels; a missing or
    unusable box is made from it, and a box without a mask left out. box: as published, its box has
    an area, whatever the mask says."""
    upright: bool = False
    """Turn frames as their EXIF orientation says; by default they are read as they are stored, as
    published, and the first with another orientation is named."""
    allow_outside: bool = field(default=False, metadata=MAY_CHANGE)
    """Let file names of the annotation files lead out of the image folders."""
    max_broken_share: float = field(default=0.01, metadata=MAY_CHANGE)
    """Broken files and annotations are skipped with a warning. A process stops the run when they
    are more than this share of the clips it drew, counted as at least 1000 (or one per item)."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        for name in ("num_frames", "batch_size", "frame_range"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("global_batch_size", "single_frame_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name} must be at least 0, got {getattr(self, name)}")
        self._check_sets()
        if not 0.0 <= self.max_broken_share <= 1.0:
            raise ValueError(f"data.max_broken_share must be in 0..1, got {self.max_broken_share}")
        if (self.val_images is None) != (self.val_annotations is None):
            raise ValueError("give both --data.val-images and --data.val-annotations, or neither")

    def _check_sets(self) -> None:
        if self.layout == "stills" and (self.more_images or self.coco_images is not None):
            raise ValueError(
                "data.layout stills trains on the pictures of data.train_annotations alone; leave "
                "out --data.more-images and --data.coco-images"
            )
        if len(self.more_images) != len(self.more_annotations):
            raise ValueError(
                f"data.more_images has {len(self.more_images)} folders but data.more_annotations "
                f"{len(self.more_annotations)} files; give one folder per file"
            )
        if (self.coco_images is None) != (self.coco_annotations is None):
            raise ValueError(
                "give both --data.coco-images and --data.coco-annotations, or None for both"
            )
        num_sets = 1 + len(self.more_images) + (self.coco_images is not None)
        if self.sampling_weights and (
            len(self.sampling_weights) != num_sets
            or min(self.sampling_weights) < 0
            or sum(self.sampling_weights) <= 0
        ):
            raise ValueError(
                f"data.sampling_weights {self.sampling_weights} must be {num_sets} numbers >= 0, "
                "one per set (training set, further sets, still images), not all 0"
            )
