"""Sets of training clips: videos, single pictures, and still images made into pseudo-videos.

Whatever a clip draws comes from one generator seeded by (seed, epoch, item), so that its content
depends neither on the process that makes it nor on what was made before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from seqformer.annotations.boxes import has_area
from seqformer.annotations.ytvis import AnnotationSet
from seqformer.config import DataConfig
from seqformer.data.clip_masks import ClipMasks, DenseMasks, MaskSource, PackedMasks
from seqformer.data.frames import read_video_frame
from seqformer.data.pseudo_clips import pseudo_video
from seqformer.data.sampling import sample_frames, sample_window
from seqformer.data.transforms import Clip, augment
from seqformer.safe_files import check_regular, inside
from seqformer.structures import ClassMap

logger = logging.getLogger(__name__)

MAX_PSEUDO_INSTANCES = 25
"""Pseudo-videos with more instances than this are not trained on, as published."""
MOST_PICTURES_CHECKED = 100
"""Still images that are looked for before the first epoch."""


class ClipSet(Protocol):
    """Items of one source, each of which can be made into a clip."""

    source: Path
    """Annotation file, for messages."""
    annotations: AnnotationSet

    def __len__(self) -> int:
        """Number of items."""
        ...

    def load_clip(
        self, item: int, rng: np.random.Generator, is_single: bool = False
    ) -> tuple[Clip, str] | None:
        """An augmented clip and its name; None where no instance is left to train on.

        Args:
            is_single: make it of the item's own frame alone.

        Raises: FileNotFoundError, OSError or ValueError naming a broken file or annotation.
        """
        ...


class VideoClips:
    """Clips of videos, one item per frame of every video."""

    most_checked: int | None = None
    """How many videos are looked for before the first epoch; None for all."""

    def __init__(
        self, annotations: AnnotationSet, images: Path, classes: ClassMap, config: DataConfig
    ) -> None:
        """Raises: FileNotFoundError or ValueError where nothing could be trained on."""
        self.source, self.images, self.config = annotations.path, images, config
        self.annotations = annotations
        self.columns = annotations.packed.columns
        self.labels = _labels(annotations, classes)
        if self.columns.is_crowd.all():
            raise ValueError(f"{self.source} has only crowd annotations, which are not trained on")
        _check_images(annotations, images, config.allow_outside, self.most_checked)
        self._cache: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        """Number of frames of all videos."""
        return int(self.columns.frame_starts[-1])

    def load_clip(
        self, item: int, rng: np.random.Generator, is_single: bool = False
    ) -> tuple[Clip, str] | None:
        """The clip around one frame. See `ClipSet`."""
        number = int(np.searchsorted(self.columns.frame_starts, item, "right")) - 1
        video = self.annotations.videos[number]
        frame = item - int(self.columns.frame_starts[number])
        frames = [frame] if is_single else self._sampled(frame, video.length, rng)
        instances = self._trained(number)
        boxes = self._boxes(instances, frames)
        if not has_area(boxes).any():
            return None  # augmentation would leave nothing
        masks, images = self._pixels(number, instances, frames)
        clip = Clip(
            frames=images,
            labels=self.labels[instances],
            boxes_xyxy=boxes,
            masks=ClipMasks.of(masks),
        )
        clip = augment(clip, self.config.augment, rng)
        return (clip, self._named(video.id, frames)) if len(clip.labels) else None

    def _sampled(self, frame: int, length: int, rng: np.random.Generator) -> list[int]:
        """The frames of the clip around one of a video."""
        config = self.config
        choose = sample_window if config.frame_choice == "window" else sample_frames
        return choose(frame, length, config.num_frames, config.frame_range, rng)

    @staticmethod
    def _named(video_id: int, frames: Sequence[int]) -> str:
        return f"video {video_id}, frames {' '.join(map(str, frames))}"

    def _trained(self, number: int) -> np.ndarray:
        """Instances of a video that are no crowds."""
        instances = np.arange(*self.columns.instance_starts[number : number + 2])
        return instances[~self.columns.is_crowd[instances]]

    def _boxes(self, instances: np.ndarray, frames: Sequence[int]) -> np.ndarray:
        """[N, T, 4], corners in pixels."""
        entries = self.columns.entry_starts[instances][:, None] + np.array(frames)
        return self.columns.boxes_xyxy[entries]

    def _pixels(
        self, number: int, instances: np.ndarray, frames: Sequence[int]
    ) -> tuple[MaskSource, list[np.ndarray]]:
        """Masks and images of the sampled frames; a frame that occurs twice is decoded once."""
        if self.config.cache_frames:
            cached = {f: self._cached_frame(number, instances, f) for f in dict.fromkeys(frames)}
            masks = DenseMasks([cached[f][1] for f in frames])
            return masks, [cached[f][0] for f in frames]
        images = {f: self._image(number, f) for f in dict.fromkeys(frames)}
        return self._packed(number, instances, frames), [images[f] for f in frames]

    def _image(self, number: int, frame: int) -> np.ndarray:
        return read_video_frame(
            self.images,
            self.annotations.videos[number],
            frame,
            upright=self.config.upright,
            allow_outside=self.config.allow_outside,
        )

    def _packed(self, number: int, instances: np.ndarray, frames: Sequence[int]) -> PackedMasks:
        video = self.annotations.videos[number]
        return packed_masks(self.annotations, instances, frames, video.height, video.width)

    def _cached_frame(
        self, number: int, instances: np.ndarray, frame: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """One image and its masks [N, H, W]."""
        if (number, frame) not in self._cache:
            masks = ClipMasks.of(self._packed(number, instances, [frame])).decode()[:, 0]
            self._cache[number, frame] = self._image(number, frame), masks
        return self._cache[number, frame]


class PictureClips(VideoClips):
    """Single pictures, each a clip of one frame."""

    most_checked = MOST_PICTURES_CHECKED

    def _sampled(self, frame: int, length: int, rng: np.random.Generator) -> list[int]:
        return [0]

    @staticmethod
    def _named(video_id: int, frames: Sequence[int]) -> str:
        return f"image {video_id}"


class StillClips:
    """Pseudo-videos of still images, one item per image."""

    def __init__(
        self, annotations: AnnotationSet, images: Path, classes: ClassMap, config: DataConfig
    ) -> None:
        """Raises: FileNotFoundError or ValueError where nothing could be trained on."""
        self.source, self.images, self.config = annotations.path, images, config
        self.annotations = annotations
        self.columns = annotations.packed.columns
        self.labels = _labels(annotations, classes)
        self.num_frames = config.num_frames
        # Colours have been changed already.
        self.augment = config.augment.without_photometric()
        _check_images(annotations, images, config.allow_outside, MOST_PICTURES_CHECKED)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.columns.video_ids)

    def load_clip(
        self, item: int, rng: np.random.Generator, is_single: bool = False
    ) -> tuple[Clip, str] | None:
        """The pseudo-video of one image. See `ClipSet`."""
        image = self.annotations.videos[item]
        instances = np.arange(*self.columns.instance_starts[item : item + 2])
        packed = packed_masks(self.annotations, instances, [0], image.height, image.width)
        frames, boxes, masks = pseudo_video(
            read_video_frame(
                self.images,
                image,
                0,
                upright=self.config.upright,
                allow_outside=self.config.allow_outside,
            ),
            ClipMasks.of(packed).decode()[:, 0],
            1 if is_single else self.num_frames,
            rng,
        )
        clip = Clip(frames, self.labels[instances], boxes, ClipMasks.of(masks))
        clip = augment(clip, self.augment, rng)
        is_kept = 0 < len(clip.labels) <= MAX_PSEUDO_INSTANCES
        return (clip, f"image {image.id}") if is_kept else None


def packed_masks(
    annotations: AnnotationSet,
    instances: np.ndarray,
    frames: Sequence[int],
    height: int,
    width: int,
) -> PackedMasks:
    """The masks of some instances of one video in some of its frames."""
    packed = annotations.packed
    first = packed.columns.entry_starts[instances].tolist()

    def describe(n: int, t: int) -> str:
        annotation = packed.columns.annotation_ids[instances[n]]
        return f"{annotations.path}: annotation {annotation}, frame {frames[t]}"

    return PackedMasks(
        (len(instances), len(frames), height, width),
        lambda n, t: packed.segmentation(first[n] + frames[t]),
        describe,
    )


def _labels(annotations: AnnotationSet, classes: ClassMap) -> np.ndarray:
    """[A] output index of each instance. Raises: ValueError for a category without an output."""
    ids, inverse = np.unique(annotations.packed.columns.category_ids, return_inverse=True)
    index_of = classes.index_of
    unknown = [int(i) for i in ids if int(i) not in index_of]
    if unknown:
        names = {c["id"]: c["name"] for c in annotations.categories}
        listed = ", ".join(f"{i} ({names[i]})" for i in unknown[:5])
        raise ValueError(
            f"{annotations.path} has instances of categories which the videos do not have: "
            f"{listed}; map its categories to those of the videos first"
        )
    return np.array([index_of[int(i)] for i in ids], np.int64)[inverse]


def _check_images(
    annotations: AnnotationSet, images: Path, allow_outside: bool, most: int | None = None
) -> None:
    """Find wrong paths before the first epoch: the folder, file names that lead out of it, and the
    first frame of the videos."""
    if not images.is_dir():
        raise FileNotFoundError(
            f"image folder {images} does not exist; set it to the folder that the file names in "
            f"{annotations.path} are relative to (--data.train-images, --data.coco-images)"
        )
    videos = annotations.videos
    if not allow_outside:
        _check_names(annotations, images)
    for number in range(len(videos) if most is None else min(most, len(videos))):
        path = images / videos[number].file_name(0)
        if path.exists():
            check_regular(path, "frame")
        else:
            raise FileNotFoundError(
                f"frame {path} of video {videos[number].id} does not exist; give the folder that "
                f"the file names in {annotations.path} are relative to (--data.train-images, "
                "--data.coco-images)"
            )


def _check_names(annotations: AnnotationSet, images: Path) -> None:
    """Raises: ValueError for a file name that leads out of the folder."""
    columns = annotations.packed.columns
    starts = columns.name_starts[:-1][np.diff(columns.name_starts) > 0]
    if b".." not in columns.names.tobytes() and not (columns.names[starts] == ord("/")).any():
        return
    for video in annotations.videos:
        for name in video.file_names:
            inside(images, name)
