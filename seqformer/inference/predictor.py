"""One video -> tracks with masks, scores and labels: the published inference on a whole video.

The video is one clip: the model joins all frames by its temporal weights (paper section 3.2), so
the instance queries are tracks and nothing has to be linked afterwards. Masks are made only for
queries that enter the output, from the last decoder layer, one query at a time; full-size masks
exist for a few frames at a time and are compressed at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from seqformer.boxes import cxcywh_to_xyxy
from seqformer.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneName,
    EvalConfig,
    config_from_dict,
)
from seqformer.inference.results import RLE, Detection, VideoPrediction, encode_masks
from seqformer.inference.sources import open_video
from seqformer.model import Checkpoint, model_from_checkpoint
from seqformer.model.masks import encode_frame_masks, render_masks, threshold_frame_masks
from seqformer.structures import ClassMap, ClipOutput

DeviceName = Literal["auto", "cpu", "cuda"]
MAX_PIXELS_AT_ONCE = 2**23
"""Full-size mask pixels of a query that exist at the same time, a byte each."""


class Predictor:
    """A model ready for videos.

    Attributes:
        model: in eval mode, on `device`.
        classes: what the classifier's outputs stand for; None for released files, which do not say
            it: then the output index is the category id, as published.
        config: frame size, number of results, smallest score.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: ClassMap | None = None,
        config: EvalConfig | None = None,
        device: DeviceName | str | torch.device = "auto",
    ) -> None:
        self.device = choose_device(device)
        self.model = model.eval().to(self.device)
        self.classes = classes
        self.config = config or EvalConfig()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        backbone: BackboneName | None = None,
        device: DeviceName | str | torch.device = "auto",
        classes: ClassMap | None = None,
        config: EvalConfig | None = None,
    ) -> Predictor:
        """Build the model that fits a checkpoint.

        Args:
            path: a released file or one of ours.
            backbone: what the file is believed to hold; checked.
            device: where to run.
            classes: instead of the checkpoint's own.
            config: instead of that of the training run; the published one for released files.

        Raises: FileNotFoundError; ValueError when file, backbone or classes do not fit together.
        """
        device = choose_device(device)
        model, checkpoint = model_from_checkpoint(path, backbone)
        classes = classes or checkpoint.classes
        if classes is not None and classes.num_classes != checkpoint.num_classes:
            raise ValueError(
                f"{path} has {checkpoint.num_classes} class outputs but the class map has "
                f"{classes.num_classes}; use the class map the weights were trained with"
            )
        return cls(model, classes, config or _trained_config(checkpoint), device)

    def category_id(self, class_index: int) -> int:
        """parity: without a class map the output index is written as it is, even 0 and 41, which
        no YouTube-VIS category has (test_predictor.py::test_index_is_category_id_without_map)."""
        return class_index if self.classes is None else self.classes.ids[class_index]

    @torch.inference_mode()
    def predict(self, frames: np.ndarray | Iterable[np.ndarray] | str | Path) -> VideoPrediction:
        """Find the objects of one video.

        Args:
            frames: [T, h0, w0, 3] uint8 RGB, or T such frames (read one at a time), or a folder of
                images, or a video file.

        Raises: ValueError for no frames, frames of unequal shape, or outputs that are not finite.
        """
        if isinstance(frames, str | Path):
            frames = open_video(Path(frames)).frames()
        images, frame_size = self._prepare(frames)
        with _full_precision_convolutions():
            output = self.model(images, last_layer_only=True)
        return self._read_output(output, images.shape[-2:], frame_size)

    def _prepare(self, frames: Iterable[np.ndarray]) -> tuple[Tensor, tuple[int, int]]:
        """Network input [1, T, 3, H, W] and the size (h0, w0) that masks will have.

        parity: masks take the size of the *last* frame; it matters only when frames differ in size
        but not after resizing (test_predictor.py::test_masks_have_the_size_of_the_last_frame).
        """
        resized: list[np.ndarray] = []
        frame_size = (0, 0)
        for index, frame in enumerate(frames):
            frame = _checked(frame, index)
            frame_size = frame.shape[0], frame.shape[1]
            resized.append(resize_frame(frame, self.config.short_side))
            if resized[-1].shape != resized[0].shape:
                raise ValueError(
                    f"frame {index} is {frame.shape[1]}x{frame.shape[0]} pixels, of another shape "
                    "than the first; all frames of a video must have the same size"
                )
        if not resized:
            raise ValueError("the video has no frames")
        images = torch.from_numpy(np.stack(resized)).to(self.device)
        images = images.permute(0, 3, 1, 2).contiguous().float().div_(255)
        mean = images.new_tensor(IMAGENET_MEAN)[:, None, None]
        std = images.new_tensor(IMAGENET_STD)[:, None, None]
        return images.sub_(mean).div_(std)[None], frame_size

    def _read_output(
        self, output: ClipOutput, network_size: tuple[int, int], frame_size: tuple[int, int]
    ) -> VideoPrediction:
        """The best `top_k` (query, class) pairs, grouped by query, with their masks.

        parity: groups are in order of their first appearance among the sorted scores, so the list
        as a whole is not sorted (test_predictor.py::test_classes_of_a_query_stay_together).
        parity: a query whose masks are empty in all frames is left out with all its classes, so
        there may be fewer than `top_k` (test_predictor.py::test_empty_query_is_left_out).
        """
        _check_finite(output)
        height, width = network_size
        num_frames = output.boxes.shape[2]
        to_pixels = output.boxes.new_tensor([frame_size[1], frame_size[0]] * 2)
        detections = []
        for query, classes in self._best_classes(output.class_logits[-1, 0]).items():
            reference_px = output.reference_points[-1, 0, :, query]
            logits = render_masks(
                output.mask_features,
                output.mask_params[-1, 0, query][None],
                (reference_px * reference_px.new_tensor([width, height]))[None],
                torch.zeros(1, dtype=torch.int64, device=self.device),
                output.mask_stride,
            )[0]
            segmentations = binarise(logits, frame_size)
            if segmentations is None:
                continue
            boxes = cxcywh_to_xyxy(output.boxes[-1, 0, :, query]).clamp(0, 1) * to_pixels
            detections += [
                Detection(
                    query=query,
                    class_index=class_index,
                    category_id=self.category_id(class_index),
                    score=score,
                    # parity: below min_score there is null in every frame
                    # (test_predictor.py::test_low_scores_carry_no_masks)
                    segmentations=tuple(
                        segmentations if score >= self.config.min_score else [None] * num_frames
                    ),
                    boxes_xyxy=boxes.cpu().numpy(),
                )
                for class_index, score in classes
            ]
        return VideoPrediction(
            detections=tuple(detections), num_frames=num_frames, frame_size=frame_size
        )

    def _best_classes(self, class_logits: Tensor) -> dict[int, list[tuple[int, float]]]:
        """[Q, K] -> query: [(class, score), ...] of the best pairs, both in score order."""
        num_classes = class_logits.shape[1]
        if self.classes is not None:
            known = torch.tensor([i >= 0 for i in self.classes.ids], device=class_logits.device)
            class_logits = class_logits.masked_fill(~known, float("-inf"))
        scores = class_logits.sigmoid().flatten()
        best, indices = scores.topk(min(self.config.top_k, scores.numel()))
        groups: dict[int, list[tuple[int, float]]] = {}
        for score, index in zip(best.tolist(), indices.tolist(), strict=True):
            class_index = index % num_classes
            if self.category_id(class_index) >= 0:
                groups.setdefault(index // num_classes, []).append((class_index, score))
        return groups


def _trained_config(checkpoint: Checkpoint) -> EvalConfig | None:
    """The frame size and so on that a checkpoint of ours was validated with."""
    settings = checkpoint.extra.get("args")
    if isinstance(settings, dict) and "eval" in settings:
        return config_from_dict(EvalConfig, settings["eval"])
    return None


def choose_device(name: DeviceName | str | torch.device) -> torch.device:
    """auto takes the GPU where there is one. Raises: ValueError when "cuda" has none."""
    has_gpu = torch.cuda.is_available()
    device = torch.device(("cuda" if has_gpu else "cpu") if name == "auto" else name)
    if device.type == "cuda" and not has_gpu:
        raise ValueError("device cuda was asked for but PyTorch finds no usable GPU; use cpu")
    return device


def resize_frame(frame: np.ndarray, short_side: int) -> np.ndarray:
    """[h0, w0, 3] uint8 -> the shorter side has `short_side` pixels, the longer is rounded down.

    PIL's bilinear filter, which averages when it shrinks; no bound on the longer side.
    """
    height, width = frame.shape[:2]
    if height < width:
        size = int(short_side * width / height), short_side
    else:
        size = short_side, int(short_side * height / width)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


def binarise(logits: Tensor, frame_size: tuple[int, int]) -> list[RLE] | None:
    """Mask logits [T, h, w] -> T compressed masks of the original size; None if all are empty.

    The map is stretched over the whole frame. Where there is a C compiler, masks are encoded
    without being drawn; the text is that of pycocotools either way.
    """
    encoded = encode_frame_masks(logits, frame_size)
    if encoded is not None:
        counts, areas = encoded
        return [{"size": list(frame_size), "counts": c} for c in counts] if any(areas) else None
    segmentations: list[RLE] = []
    has_pixels = False
    for part in logits.split(max(1, MAX_PIXELS_AT_ONCE // (frame_size[0] * frame_size[1]))):
        masks = threshold_frame_masks(part, frame_size).cpu().numpy()  # [t, w0, h0]
        has_pixels = has_pixels or bool(masks.any())
        segmentations += encode_masks(masks.T)
    return segmentations if has_pixels else None


@contextmanager
def _full_precision_convolutions() -> Iterator[None]:
    """Keep cuDNN from rounding convolution inputs to 10 bits (TF32, its default): scores would
    differ from those of a CPU in the third digit."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _checked(frame: np.ndarray, index: int) -> np.ndarray:
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(
            f"frame {index} must be uint8 RGB [height, width, 3], got {frame.dtype} "
            f"{list(frame.shape)}"
        )
    return frame


def _check_finite(output: ClipOutput) -> None:
    """Refuse outputs from which no result can be read. One synchronisation with the device."""
    parts = (output.class_logits, output.boxes, output.mask_params, output.mask_features)
    if not torch.stack([part.isfinite().all() for part in parts]).all():
        raise ValueError(
            "the model's outputs contain NaN or infinity; most likely the weights come from a run "
            "that diverged or the weights file is damaged"
        )
