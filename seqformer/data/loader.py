"""From annotation files to batches: class map, padding, and the training loader."""

from __future__ import annotations

import logging

import cv2
import torch

from seqformer.annotations.coco import load_coco_file
from seqformer.annotations.ytvis import load_annotation_file
from seqformer.config import DataConfig
from seqformer.data.class_map import (
    PUBLISHED_COCO_OUTPUTS,
    build_class_map,
    check_coco_categories,
    check_still_categories,
)
from seqformer.data.clip_dataset import ConcatClipDataset
from seqformer.data.clip_loader import ClipLoader
from seqformer.data.clips import ClipSet, PictureClips, StillClips, VideoClips
from seqformer.data.collate import collate, collate_packed
from seqformer.data.sampling import ClipBatchSampler
from seqformer.data.transport import CAN_PACK
from seqformer.structures import ClassMap

logger = logging.getLogger(__name__)


def build_train_loader(
    config: DataConfig, seed: int, rank: int = 0, world_size: int = 1
) -> tuple[ClipLoader, ClassMap]:
    """Loader of one training process, and what the outputs of the classifier stand for.

    Call `loader.batch_sampler.set_epoch(epoch, start_step)` before each pass. A step takes
    `loader.batch_sampler.micro_batches` batches of this loader, an epoch `steps_per_epoch` steps.
    Every process must give the same seed. One that computes on a GPU sets `loader.pin_memory`.

    Raises: FileNotFoundError or ValueError saying which file or setting to change.
    """
    # OpenCV's threads would not survive the fork of the workers, and one core per worker is enough.
    cv2.setNumThreads(0)
    sets, classes = load_sets(config)
    clips = ConcatClipDataset(sets, seed)
    global_batch_size = config.global_batch_size or config.batch_size * world_size
    sampler = ClipBatchSampler(
        [len(one) for one in sets],
        global_batch_size,
        seed,
        rank,
        world_size,
        micro_batch_size=config.batch_size,
        weights=config.sampling_weights,
        single_frame_steps=config.single_frame_steps,
    )
    if sampler.steps_per_epoch == 0:
        setting = "global-batch-size" if config.global_batch_size else "batch-size"
        raise ValueError(
            f"{config.train_annotations} has {len(clips)} frames or pictures, fewer than the "
            f"{global_batch_size} clips of one step over {world_size} process(es); lower "
            f"--data.{setting} or add videos"
        )
    if rank == 0:
        for one in sets:
            is_video = isinstance(one, VideoClips) and not isinstance(one, PictureClips)
            kind = "frames" if is_video else "still images"
            logger.info(
                "%d %s, %d instances from %s",
                len(one),
                kind,
                one.annotations.num_instances,
                one.source,
            )
        logger.info("%d classes", classes.num_classes)
    loader = ClipLoader(
        clips,
        config.max_broken_share,
        batch_sampler=sampler,
        num_workers=config.num_workers,
        collate_fn=collate_packed if config.num_workers and CAN_PACK else collate,
        # Workers keep their cache of frames, and the start of an epoch costs nothing.
        persistent_workers=config.num_workers > 0,
        # Without one of its own the loader would draw from the generator of dropout.
        generator=torch.Generator().manual_seed(seed),
    )
    return loader, classes


def load_sets(config: DataConfig) -> tuple[list[ClipSet], ClassMap]:
    """The video sets, then the still images, and the classes of the videos; or stills alone.

    Raises: FileNotFoundError or ValueError saying which file or setting to change.
    """
    if config.layout == "stills":
        return _stills_alone(config)
    files = [config.train_annotations, *config.more_annotations]
    videos = [
        load_annotation_file(f, True, config.annotation_cache, config.presence) for f in files
    ]
    classes = build_class_map(videos, config.class_layout)
    folders = [config.train_images, *config.more_images]
    sets: list[ClipSet] = [
        VideoClips(one, folder, classes, config)
        for one, folder in zip(videos, folders, strict=True)
    ]
    if config.coco_annotations is not None and config.coco_images is not None:
        still = load_coco_file(
            config.coco_annotations,
            config.coco_categories,
            config.annotation_cache,
            config.presence,
        )
        check_still_categories(still, classes)
        sets.append(StillClips(still, config.coco_images, classes, config))
    return sets, classes


def _stills_alone(config: DataConfig) -> tuple[list[ClipSet], ClassMap]:
    """The pictures of a COCO file and its classes. Raises: FileNotFoundError, ValueError."""
    if not config.train_annotations.exists():
        raise FileNotFoundError(
            f"COCO annotation file {config.train_annotations} does not exist; set "
            "--data.train-annotations to instances_train2017.json as it was downloaded"
        )
    still = load_coco_file(
        config.train_annotations, "as_is", config.annotation_cache, config.presence
    )
    classes = build_class_map(still, config.class_layout, PUBLISHED_COCO_OUTPUTS)
    if config.class_layout == "published":
        check_coco_categories(still)
    kind = PictureClips if config.num_frames == 1 else StillClips
    return [kind(still, config.train_images, classes, config)], classes
