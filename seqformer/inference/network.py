"""The two halves of the model as inference calls them: portions of frames, then the instances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from seqformer.config import IMAGENET_MEAN, IMAGENET_STD, Precision
from seqformer.inference.frame_store import FrameData
from seqformer.model import TemporalPool, inference_copy, mask_reference

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Portion:
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

    def pool(self, start: int, stop: int) -> TemporalPool:
        """The temporal sums of frames start..stop-1 of the portion."""
        part = slice(start, stop)
        return TemporalPool.of(
            [x[:, part] for x in self.time_logits], [x[:, part] for x in self.sampled]
        )


class FrameNetwork:
    """A model on a device, ready for frames of any number.

    Attributes:
        device: where it computes.
        mask_stride: input pixels per cell of the mask features.
    """

    def __init__(self, model: nn.Module, precision: Precision, device: torch.device) -> None:
        self.device = device
        self.mask_stride: int = model.mask_stride
        self._dtype = DTYPES[precision]
        self._model = inference_copy(model, self._dtype)

    @torch.inference_mode()
    def frames(self, resized: Sequence[np.ndarray]) -> Portion:
        """Run t frames, uint8 RGB [H, W, 3] of network size, by themselves."""
        images = torch.from_numpy(np.stack(resized))
        if self.device.type == "cuda":
            images = images.pin_memory()
        images = images.to(self.device, non_blocking=True)
        images = images.permute(0, 3, 1, 2).contiguous().float().div_(255)
        mean = images.new_tensor(IMAGENET_MEAN)[:, None, None]
        std = images.new_tensor(IMAGENET_STD)[:, None, None]
        images = images.sub_(mean).div_(std)[None].to(self._dtype)
        with _full_precision_convolutions():
            states, features = self._model.box_stream(images)
        features, boxes = features[0], states.boxes[-1][0]
        references = mask_reference(states.references[-1])[0].expand(len(boxes), -1, -1)
        checked = (features, boxes, *states.time_logits, states.sampled[-1])
        return Portion(
            states.time_logits,
            states.sampled,
            features,
            references,
            boxes,
            torch.stack([part.isfinite().all() for part in checked]).all(),
        )

    @torch.inference_mode()
    def instances(self, pool: TemporalPool) -> tuple[Tensor, Tensor]:
        """Class logits [Q, K] and mask parameters [Q, 169] of a video whose frames are pooled.

        Raises: ValueError when they are not finite.
        """
        instances = self._model.instance_stream(pool.pooled())
        class_logits, mask_params = self._model.instance_heads(instances, last_layer_only=True)
        check_finite(class_logits.isfinite().all() & mask_params.isfinite().all())
        return class_logits[-1, 0], mask_params[-1, 0]


class HostCopy:
    """A portion's part of the `FrameStore` on its way to the host, beside the next computation."""

    def __init__(self, portion: Portion, first: int) -> None:
        self._first = first
        tensors = [portion.mask_features, portion.references, portion.boxes, portion.is_finite]
        if tensors[0].dtype == torch.bfloat16:  # numpy has no such type
            tensors[0] = tensors[0].contiguous().view(torch.uint16)
        self._event: torch.cuda.Event | None = None
        if tensors[0].device.type == "cuda":
            pinned = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
            for host, tensor in zip(pinned, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
            tensors = pinned
        self._tensors = tensors

    def result(self) -> FrameData:
        """Wait for the copy. Raises: ValueError when the network's outputs are not finite."""
        if self._event is not None:
            self._event.synchronize()
        *arrays, is_finite = self._tensors
        check_finite(is_finite)
        # Copies: pinned memory is scarce, and a view would keep all of its tensor.
        return FrameData(self._first, *(tensor.contiguous().numpy().copy() for tensor in arrays))


def check_finite(is_finite: Tensor) -> None:
    """Refuse outputs from which no result can be read."""
    if not is_finite:
        raise ValueError(
            "the model's outputs contain NaN or infinity; most likely the weights come from a run "
            "that diverged or the weights file is damaged (or, with --precision fp16, an "
            "intermediate value is too large: use bf16)"
        )


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
