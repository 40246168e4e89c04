"""The two halves of the model as inference calls them: chunks of frames, then the instances."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from seqformer.config import IMAGENET_MEAN, IMAGENET_STD, InferencePrecision
from seqformer.devices import HostCopy, on_device, sent
from seqformer.inference.frame_store import FrameData
from seqformer.inference.int8 import check_int8, rest_of_int8
from seqformer.model import Int8Ranges, TemporalPool, inference_copy, mask_reference
from seqformer.model.decoder import BoxStates
from seqformer.model.full_float32 import full_float32
from seqformer.model.one_graph import frames_as_one_graph
from seqformer.model.seqformer import SeqFormer

logger = logging.getLogger(__name__)

DTYPES: dict[InferencePrecision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def computes_in(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for products of a type; True where that is not known."""
    names = {
        torch.bfloat16: ("_is_avx512_bf16_supported", "_is_amx_tile_supported"),
        torch.float16: ("_is_amx_fp16_supported",),
    }.get(dtype, ())
    known = [getattr(torch.cpu, name, None) for name in names]
    if not known or None in known or platform.machine() not in ("x86_64", "AMD64"):
        return True
    return any(is_supported() for is_supported in known if is_supported is not None)


@dataclass(frozen=True)
class FrameChunk:
    """What the box stream says about t consecutive frames of a video, on the device.

    Attributes:
        time_logits: D tensors [1, t, Q, 1]; sampled: D tensors [1, t, Q, C].
        mask_features: [t, 8, h, w]; references: [t, Q, 2]; boxes: [t, Q, 4], as in `FrameData`.
        is_finite: scalar bool.
    """

    time_logits: list[Tensor]
    sampled: list[Tensor]
    mask_features: Tensor
    references: Tensor
    boxes: Tensor
    is_finite: Tensor

    def merged_into(self, before: TemporalPool | None, together: int) -> TemporalPool:
        """The sums of its frames, so many `together`, with those of the frames before."""
        for start in range(0, len(self.boxes), together):
            pool = self.pool(start, start + together)
            before = pool if before is None else before.merge(pool)
        assert before is not None
        return before

    def pool(self, start: int, stop: int) -> TemporalPool:
        """The temporal sums of frames start..stop-1 of the chunk."""
        frames = slice(start, stop)
        return TemporalPool.of(
            [x[:, frames] for x in self.time_logits], [x[:, frames] for x in self.sampled]
        )


class Network(Protocol):
    """What a stream asks of a model, or of an exported file in its place."""

    device: torch.device
    mask_stride: int

    def frames(self, resized: Sequence[np.ndarray], before: Any = None) -> Any:
        """A `FrameChunk` of t frames; `before` is what those before added up to."""

    def instances(self, pool: Any) -> tuple[Tensor, Tensor]:
        """Class logits [Q, K] and mask parameters [Q, 169] of what all frames add up to."""


class FrameNetwork:
    """A model on a device, ready for frames of any number.

    No float32 product is rounded to 10 bits (TF32), whatever training or the program has set:
    scores would differ from those of a CPU in the third digit.

    Attributes:
        device: where it computes.
        mask_stride: input pixels per cell of the mask features.
    """

    def __init__(
        self,
        model: SeqFormer,
        precision: InferencePrecision,
        device: torch.device,
        is_compiled: bool = False,
        ranges: Int8Ranges | None = None,
    ) -> None:
        """Make a copy of a model ready.

        Args:
            ranges: of this model, for int8 and for nothing else.

        Raises: ValueError where there is no int8, saying why.
        """
        self.device = device
        self.mask_stride: int = model.mask_stride
        if precision == "int8":
            check_int8(model, device, is_compiled)
            if ranges is None:
                raise ValueError(
                    "precision int8 needs the ranges of the model's numbers first: "
                    "predictor.calibrate(frames) measures them, and --int8-ranges names a file of "
                    "them that `seqformer eval` has written"
                )
        self._dtype = rest_of_int8() if precision == "int8" else DTYPES[precision]
        if device.type == "cpu" and not computes_in(self._dtype):
            logger.warning(
                "this CPU has no instructions for %s, which is computed through float32: results "
                "are as they would be, but there is nothing to gain beside --precision fp32",
                precision,
            )
        if precision == "int8" and self._dtype != torch.float32:
            logger.warning(
                "this CPU has AMX: --precision bf16 takes about as long as int8 and is nearer to "
                "float32"
            )
        self._model = inference_copy(model, self._dtype, packs=not is_compiled, ranges=ranges)
        self._box_stream = self._model.box_stream
        if is_compiled:
            self._box_stream = frames_as_one_graph(self._model, self._box_stream)
        # Made once: a constant that is copied to a GPU for every chunk makes the host wait.
        self._mean, self._std = (
            torch.tensor(values).to(device)[:, None, None]
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )

    @torch.inference_mode()
    def frames(
        self, resized: Sequence[np.ndarray], before: TemporalPool | None = None
    ) -> FrameChunk:
        """Run t frames, uint8 RGB [H, W, 3] of network size, whatever came `before`."""
        with on_device(self.device), full_float32():
            images = sent(torch.from_numpy(np.stack(resized)), self.device)
            images = normalised(images, self._mean, self._std).to(self._dtype)
            return self._chunk(*self._box_stream(images))

    def _chunk(self, states: BoxStates, features: Tensor) -> FrameChunk:
        features, boxes = features[0], states.boxes[-1][0]
        references = mask_reference(states.references[-1])[0].expand(len(boxes), -1, -1)
        checked = (features, boxes, *states.time_logits, states.sampled[-1])
        return FrameChunk(
            states.time_logits,
            states.sampled,
            features,
            references,
            boxes,
            _are_finite(checked),
        )

    @torch.inference_mode()
    def instances(self, pool: TemporalPool) -> tuple[Tensor, Tensor]:
        """Class logits [Q, K] and mask parameters [Q, 169] of a video whose frames are pooled.

        Raises: ValueError when they are not finite.
        """
        with on_device(self.device), full_float32():
            instances = self._model.instance_stream(pool.pooled())
            class_logits, mask_params = self._model.instance_heads(instances, last_layer_only=True)
        check_finite(class_logits.isfinite().all() & mask_params.isfinite().all())
        return class_logits[-1, 0], mask_params[-1, 0]


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """[t, H, W, 3] uint8 RGB -> [1, t, 3, H, W] float32; mean and deviation are [3, 1, 1]."""
    images = images.permute(0, 3, 1, 2).contiguous().float().div_(255)
    return images.sub_(mean).div_(std)[None]


def _are_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Scalar bool: one pass over each, since neither NaN nor infinity hides from both extremes."""
    extremes = [extreme.float() for tensor in tensors for extreme in torch.aminmax(tensor)]
    return torch.stack(extremes).isfinite().all()


class ChunkCopy:
    """A chunk's part of the `FrameStore` on its way to the host, beside the next computation."""

    def __init__(self, chunk: FrameChunk, first: int) -> None:
        self._first = first
        tensors = [chunk.mask_features, chunk.references, chunk.boxes, chunk.is_finite]
        if tensors[0].dtype == torch.bfloat16:  # numpy has no such type
            tensors[0] = tensors[0].contiguous().view(torch.uint16)
        self._copy = HostCopy(*tensors)

    def result(self) -> FrameData:
        """Wait for the copy. Raises: ValueError when the network's outputs are not finite."""
        *arrays, is_finite = self._copy.wait()
        check_finite(is_finite)
        # Copies: pinned memory is scarce, and a view would keep all of its tensor.
        return FrameData(self._first, *(array.copy() for array in arrays))


def check_finite(is_finite: Tensor | np.ndarray) -> None:
    """Refuse outputs from which no result can be read."""
    if not is_finite:
        raise ValueError(
            "the model's outputs contain NaN or infinity; most likely the weights come from a run "
            "that diverged or the weights file is damaged (or, with --precision fp16, an "
            "intermediate value is too large: use bf16)"
        )
