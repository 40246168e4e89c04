"""From an annotation file to batches: data set of clips, padding, and the training loader."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from seqformer.config import DataConfig
from seqformer.data.sampling import ClipBatchSampler, ItemKey, item_generator, sample_frames
from seqformer.data.transforms import Clip, augment, to_tensors
from seqformer.data.ytvis import (
    Instance,
    Video,
    YTVISAnnotations,
    decode_mask,
    load_annotation_file,
    read_video_frame,
)
from seqformer.structures import ClassMap, ClipBatch, ClipTargets

logger = logging.getLogger(__name__)

PAD_TO = 32
"""Batches are padded to multiples of this many pixels."""
MAX_TRIES = 100
"""Items drawn in the place of one that shows no instance, before giving up."""

Sample = tuple[Tensor, ClipTargets, str]
"""images [T, 3, H, W], targets, id"""


def build_class_map(
    annotations: YTVISAnnotations, layout: Literal["from_data", "published"]
) -> ClassMap:
    """Outputs of the classifier for the categories of a file.

    Raises: ValueError when the ids do not fit the published layout.
    """
    if layout == "published":
        return ClassMap.published(annotations.categories)
    return ClassMap.from_categories(annotations.categories)


class YTVISClips(Dataset[Sample]):
    """Augmented training clips, one item per frame of every video.

    Indexed by (epoch, item), so that each epoch sees other neighbours and another augmentation, and
    the same ones whenever it is repeated. An item that shows no instance gives way to another one.
    """

    def __init__(
        self,
        annotations: YTVISAnnotations,
        images: Path,
        classes: ClassMap,
        config: DataConfig,
        seed: int,
    ) -> None:
        self.images, self.config, self.seed = images, config, seed
        self.source = annotations.path
        self.videos = annotations.videos
        self.index_of = classes.index_of
        self.trained = [[i for i in video.instances if not i.is_crowd] for video in self.videos]
        self.items = [(v, f) for v, video in enumerate(self.videos) for f in range(video.length)]
        if not any(self.trained):
            raise ValueError(f"{self.source} has only crowd annotations, which are not trained on")
        self._check_images()
        self._cache: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: ItemKey) -> Sample:
        """One clip with at least one instance.

        Raises: FileNotFoundError or ValueError naming the broken frame or annotation.
        """
        epoch, item = key
        rng = item_generator(self.seed, epoch, item)
        for _ in range(MAX_TRIES):
            number, frame = self.items[item]
            video = self.videos[number]
            frames = sample_frames(
                frame, video.length, self.config.num_frames, self.config.frame_range, rng
            )
            if self._shows_instance(number, frames):
                clip = augment(self.load_clip(number, frames), self.config.augment, rng)
                if len(clip.labels):
                    images, targets = to_tensors(clip)
                    shown = " ".join(map(str, frames))
                    return images, targets, f"video {video.id}, frames {shown}"
            item = int(rng.integers(len(self.items)))
        raise ValueError(
            f"{self.source}: {MAX_TRIES} clips in a row showed no instance; annotate more frames "
            "or make the crops of data.augment larger"
        )

    def load_clip(self, number: int, frames: Sequence[int]) -> Clip:
        """Frames of the video at position `number` with all its instances, not augmented."""
        instances = self.trained[number]
        decoded = {f: self._load_frame(number, f) for f in dict.fromkeys(frames)}
        boxes = np.stack([instance.boxes_xyxy[list(frames)] for instance in instances])
        return Clip(
            frames=np.stack([decoded[f][0] for f in frames]),
            labels=np.array([self.index_of[i.category_id] for i in instances], np.int64),
            boxes_xyxy=boxes,
            masks=np.stack([decoded[f][1] for f in frames], axis=1),
        )

    def _load_frame(self, number: int, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """One frame [H, W, 3] uint8 and its masks [N, H, W] bool."""
        if (number, frame) in self._cache:
            return self._cache[number, frame]
        video = self.videos[number]
        image = read_video_frame(self.images, video, frame)
        masks = np.stack([self._decode(i, video, frame) for i in self.trained[number]])
        if self.config.cache_frames:
            self._cache[number, frame] = image, masks
        return image, masks

    def _decode(self, instance: Instance, video: Video, frame: int) -> np.ndarray:
        try:
            return decode_mask(instance.segmentations[frame], video.height, video.width)
        except ValueError as error:
            raise ValueError(
                f"{self.source}: annotation {instance.annotation_id}, frame {frame}: the "
                f"segmentation {error}"
            ) from None

    def _shows_instance(self, number: int, frames: Sequence[int]) -> bool:
        """Whether a box has an area; without one, augmentation would leave nothing."""
        boxes = [instance.boxes_xyxy[list(frames)] for instance in self.trained[number]]
        return any((box[:, 2:] > box[:, :2]).all(axis=1).any() for box in boxes)

    def _check_images(self) -> None:
        """Find wrong paths before the first epoch: the folder and one frame of each video."""
        if not self.images.is_dir():
            raise FileNotFoundError(
                f"image folder {self.images} does not exist; set --data.train-images to the folder "
                f"that the file_names of {self.source} are relative to"
            )
        for video in self.videos:
            path = self.images / video.file_names[0]
            if not path.is_file():
                raise FileNotFoundError(
                    f"frame {path} of video {video.id} does not exist; set --data.train-images to "
                    f"the folder that the file_names of {self.source} are relative to"
                )


def collate(samples: Sequence[Sample]) -> ClipBatch:
    """Pad clips with zeros at the right and bottom to one size, a multiple of `PAD_TO`.

    Targets keep the size of their clip.
    """
    sizes = [images.shape[-2:] for images, _, _ in samples]
    height, width = (-(-max(sides) // PAD_TO) * PAD_TO for sides in zip(*sizes, strict=True))
    padding_mask = torch.ones(len(samples), height, width, dtype=torch.bool)
    for mask, (h, w) in zip(padding_mask, sizes, strict=True):
        mask[:h, :w] = False
    padded = [
        F.pad(images, (0, width - w, 0, height - h))
        for (images, _, _), (h, w) in zip(samples, sizes, strict=True)
    ]
    return ClipBatch(
        images=torch.stack(padded),
        padding_mask=padding_mask,
        targets=[targets for _, targets, _ in samples],
        ids=[name for _, _, name in samples],
    )


def build_train_loader(
    config: DataConfig, seed: int, rank: int = 0, world_size: int = 1
) -> tuple[DataLoader[ClipBatch], ClassMap]:
    """Loader of one training process, and what the outputs of the classifier stand for.

    Call `loader.batch_sampler.set_epoch(epoch, start_step)` before each pass. A step takes
    `loader.batch_sampler.micro_batches` batches of this loader, an epoch `steps_per_epoch` steps.
    Every process must give the same seed.

    Raises: FileNotFoundError or ValueError saying which file or setting to change.
    """
    annotations = load_annotation_file(config.train_annotations, require_annotations=True)
    classes = build_class_map(annotations, config.class_layout)
    clips = YTVISClips(annotations, config.train_images, classes, config, seed)
    global_batch_size = config.global_batch_size or config.batch_size * world_size
    sampler = ClipBatchSampler(
        len(clips), global_batch_size, seed, rank, world_size, micro_batch_size=config.batch_size
    )
    if sampler.steps_per_epoch == 0:
        setting = "global-batch-size" if config.global_batch_size else "batch-size"
        raise ValueError(
            f"{config.train_annotations} has {len(clips)} frames, fewer than the "
            f"{global_batch_size} clips of one step over {world_size} process(es); lower "
            f"--data.{setting} or add videos"
        )
    if rank == 0:
        logger.info(
            "%d videos, %d frames, %d instances, %d classes from %s",
            len(clips.videos),
            len(clips),
            sum(map(len, clips.trained)),
            classes.num_classes,
            config.train_annotations,
        )
    loader = DataLoader(
        clips,
        batch_sampler=sampler,
        num_workers=config.num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        # Workers keep their cache of frames, and the start of an epoch costs nothing.
        persistent_workers=config.num_workers > 0,
        # Without one of its own the loader would draw from the generator of dropout.
        generator=torch.Generator().manual_seed(seed),
    )
    return loader, classes
