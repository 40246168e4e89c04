"""The published way of making a training clip, written from its description to be timed against.

A description of what the public SeqFormer code does for one YouTube-VIS item, step by step and with
the same libraries and data types: annotations as Python objects with uncompressed run lengths,
every frame decoded by Pillow, every mask decoded whole by pycocotools, photometric distortion on
whole float frames in OpenCV, each geometric step applied to all frames and, in float32, to all
masks, torchvision's tensor conversion and normalisation, padding to a multiple of 32. It draws from
NumPy's generator where the public code uses two global ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

SCALES = (288, 320, 352, 392, 416, 448, 480, 512)
CROP_SCALES = (400, 500, 600)
CROP_RANGE = 384, 600
MAX_SIZE = 768
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))

Target = dict[str, Tensor]


class PublishedClips:
    """One item per frame of every video; `clips[item]` is a clip and its targets."""

    def __init__(self, images: Path, annotations: Path, num_frames: int, seed: int = 0) -> None:
        content = json.loads(annotations.read_text())
        self.images, self.num_frames = images, num_frames
        self.videos = content["videos"]
        self.of_video: dict[int, list[dict[str, Any]]] = {v["id"]: [] for v in self.videos}
        for annotation in content["annotations"]:
            self.of_video[annotation["video_id"]].append(annotation)
        self.items = [(v, f) for v in self.videos for f in range(len(v["file_names"]))]
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: int) -> tuple[Tensor, Target]:
        while True:
            video, frame = self.items[item]
            chosen = self._choose_frames(frame, len(video["file_names"]))
            clip = [Image.open(self.images / video["file_names"][f]).convert("RGB") for f in chosen]
            target = self.target(video, chosen, clip[0].size)
            frames, target = self._augment(clip, target)
            if len(target["labels"]):
                target["boxes"] = target["boxes"].clamp(1e-6)
                return torch.cat(frames, dim=0), target
            item = int(self.rng.integers(len(self.items)))

    def _choose_frames(self, frame: int, length: int) -> list[int]:
        before, after = self.rng.integers(1, 4, 2).tolist()
        chosen = [frame, max(0, frame - before), min(length - 1, frame + after)]
        pool = [*range(min(chosen)), *range(max(chosen), length)]
        more = self.num_frames - 3
        if len(pool) > more:
            chosen += self.rng.choice(pool, more, replace=False).tolist()
        else:
            chosen += self.rng.choice(length, more, replace=length < more).tolist()
        return sorted(chosen)

    def target(self, video: dict[str, Any], frames: list[int], size: tuple[int, int]) -> Target:
        width, height = size
        annotations = [a for a in self.of_video[video["id"]] if not a.get("iscrowd", 0)]
        boxes, masks = [], []
        for annotation in annotations:
            for f in frames:
                boxes.append(annotation["bboxes"][f] or [0, 0, 0, 0])
                segmentation = annotation["segmentations"][f]
                if segmentation:
                    rle = coco_mask.frPyObjects(segmentation, height, width)
                    decoded = torch.as_tensor(coco_mask.decode(rle)[..., None], dtype=torch.uint8)
                    masks.append(decoded.any(dim=2))
                else:
                    masks.append(torch.zeros((height, width), dtype=torch.uint8))
        corners = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        corners[:, 0::2].clamp_(min=0, max=width)
        corners[:, 1::2].clamp_(min=0, max=height)
        labels = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
        return {"boxes": corners, "labels": labels, "masks": torch.stack(masks, dim=0)}

    def _augment(self, clip: list[Image.Image], target: Target) -> tuple[list[Tensor], Target]:
        rng = self.rng
        if rng.random() < 0.5:
            clip, target = flip(clip, target)
        clip = [distort(image, rng) for image in clip]
        if rng.random() < 0.5:
            clip, target = resize(clip, target, int(rng.choice(CROP_SCALES)), None)
            clip, target = random_crop(clip, target, rng)
        clip, target = resize(clip, target, int(rng.choice(SCALES)), MAX_SIZE)
        target = drop_lost(target, len(clip))
        frames = [to_tensor(image) for image in clip]
        height, width = frames[0].shape[-2:]
        x0, y0, x1, y1 = target["boxes"].unbind(-1)
        boxes = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)
        return frames, {**target, "boxes": boxes / torch.tensor([width, height, width, height])}


def flip(clip: list[Image.Image], target: Target) -> tuple[list[Image.Image], Target]:
    """Mirror left and right."""
    width = clip[0].size[0]
    boxes = target["boxes"][:, [2, 1, 0, 3]] * torch.as_tensor([-1, 1, -1, 1])
    boxes = boxes + torch.as_tensor([width, 0, width, 0])
    clip = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in clip]
    return clip, {**target, "boxes": boxes, "masks": target["masks"].flip(-1)}


def distort(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Photometric distortion of one whole frame in float32."""
    pixels = np.asarray(image).astype("float32")
    if rng.integers(2):
        pixels += rng.uniform(-32, 32)
    contrast_first = rng.integers(2)
    if contrast_first and rng.integers(2):
        pixels *= rng.uniform(0.5, 1.5)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV)
    if rng.integers(2):
        pixels[:, :, 1] *= rng.uniform(0.5, 1.5)
    if rng.integers(2):
        pixels[:, :, 0] += rng.uniform(-18, 18)
        pixels[:, :, 0][pixels[:, :, 0] > 360.0] -= 360.0
        pixels[:, :, 0][pixels[:, :, 0] < 0.0] += 360.0
    pixels = cv2.cvtColor(pixels, cv2.COLOR_HSV2BGR)
    if not contrast_first and rng.integers(2):
        pixels *= rng.uniform(0.5, 1.5)
    if rng.integers(2):
        pixels = pixels[:, :, ORDERS[rng.integers(6)]]
    with np.errstate(invalid="ignore"):
        return Image.fromarray(pixels.astype("uint8"))


def resize(
    clip: list[Image.Image], target: Target, size: int, max_size: int | None
) -> tuple[list[Image.Image], Target]:
    """Pillow's bilinear resize of frames, nearest resize of masks as floats."""
    width, height = clip[0].size
    short, long = min(width, height), max(width, height)
    if max_size is not None and long / short * size > max_size:
        size = round(max_size * short / long)
    new = (
        (size, int(size * height / width)) if width < height else (int(size * width / height), size)
    )
    clip = [image.resize(new, Image.Resampling.BILINEAR) for image in clip]
    scale = torch.as_tensor([new[0] / width, new[1] / height] * 2)
    masks = F.interpolate(target["masks"][:, None].float(), new[::-1], mode="nearest")[:, 0] > 0.5
    return clip, {**target, "boxes": target["boxes"] * scale, "masks": masks}


def random_crop(
    clip: list[Image.Image], target: Target, rng: np.random.Generator
) -> tuple[list[Image.Image], Target]:
    """Crop of 384..600 pixels a side."""
    low, high = CROP_RANGE
    width, height = (int(rng.integers(low, min(s, high) + 1)) for s in clip[0].size)
    left = int(rng.integers(clip[0].size[0] - width + 1))
    top = int(rng.integers(clip[0].size[1] - height + 1))
    clip = [image.crop((left, top, left + width, top + height)) for image in clip]
    boxes = target["boxes"] - torch.as_tensor([left, top, left, top])
    limit = torch.as_tensor([width, height], dtype=torch.float32)
    boxes = torch.min(boxes.reshape(-1, 2, 2), limit).clamp(min=0).reshape(-1, 4)
    masks = target["masks"][:, top : top + height, left : left + width]
    return clip, {**target, "boxes": boxes, "masks": masks}


def drop_lost(target: Target, num_frames: int) -> Target:
    """Void boxes without area, drop instances without any box."""
    corners = target["boxes"].reshape(-1, 2, 2)
    is_valid = (corners[:, 1] > corners[:, 0]).all(dim=1)
    for k in range(len(is_valid)):
        if not is_valid[k]:
            target["boxes"][k] = target["boxes"][k] // 1000
    keep = is_valid.reshape(-1, num_frames).any(dim=1)
    each = keep.repeat_interleave(num_frames)
    return {
        "labels": target["labels"][keep],
        "boxes": target["boxes"][each],
        "masks": target["masks"][each],
    }


def to_tensor(image: Image.Image) -> Tensor:
    """[3, H, W] float32, normalised."""
    pixels = torch.from_numpy(np.array(image, np.uint8, copy=True))
    pixels = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    return pixels.clone().sub_(mean).div_(std)


def collate(samples: list[tuple[Tensor, Target]]) -> tuple[Tensor, Tensor, list[Target]]:
    """Images [B, T * 3, H, W] padded to a multiple of 32, padding mask, targets."""
    sizes = [images.shape[-2:] for images, _ in samples]
    height, width = (-(-max(sides) // 32) * 32 for sides in zip(*sizes, strict=True))
    batch = torch.zeros(len(samples), samples[0][0].shape[0], height, width)
    mask = torch.ones(len(samples), height, width, dtype=torch.bool)
    for (images, _), padded, padding in zip(samples, batch, mask, strict=True):
        padded[:, : images.shape[1], : images.shape[2]].copy_(images)
        padding[: images.shape[1], : images.shape[2]] = False
    return batch, mask, [target for _, target in samples]
