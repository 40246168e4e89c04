"""In the place of what needs a real GPU: pinned memory, events, values that arrive on the host.

The current device stays cuda:0 while everything is asked of cuda:1, so that a tensor made without
naming its device is found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

import seqformer.inference.clip_matching
import seqformer.inference.clip_stream
import seqformer.inference.network
import seqformer.inference.stream
from seqformer import devices
from seqformer.inference.mask_encoder import EncodingJob
from seqformer.inference.stream import StreamContext
from seqformer.model.masks import threshold_frame_masks
from seqformer.structures import ClipBatch
from tests.fake_cuda.watch import Watch

DEVICE = torch.device("cuda", 1)


class _Guard:
    """In the place of torch.cuda.device."""

    def __init__(self, device: torch.device) -> None:
        assert torch.device(device) == DEVICE, device

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass


class _WithoutPins:
    """torch as `devices` sees it; a fake tensor cannot be pinned."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return torch.empty(*shape, **options)


class _Event:
    def record(self, stream: Any) -> None:
        assert stream == ("stream", DEVICE), stream

    def synchronize(self) -> None:
        pass


def _numbers(host: torch.Tensor) -> np.ndarray:
    """What arrives on the host: zeros."""
    assert host.device.type == "cpu", "only a CPU tensor has numbers for the host"
    return np.zeros(host.shape, str(host.dtype).removeprefix("torch."))


def install(watch: Watch) -> None:
    """For the rest of the process; `watch` hears what is declared."""
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 2
    torch.cuda.current_device = lambda: 0
    torch.cuda.is_bf16_supported = lambda including_emulation=True: True
    torch.cuda.device = _Guard
    torch.cuda.Event = _Event
    torch.cuda.current_stream = lambda device: ("stream", device)
    torch.cuda.get_rng_state = lambda device: torch.get_rng_state()
    torch.cuda.set_rng_state = lambda state, device: None
    torch.Tensor.pin_memory = lambda tensor: tensor
    devices.torch = _WithoutPins()
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.nn.init.trunc_normal_ = lambda tensor, *args, **kwargs: tensor

    _declare(watch, devices, "sent")
    seqformer.inference.network.sent = devices.sent
    _declare(watch, devices.HostCopy, "__init__")
    FakeTensor.numpy = _numbers
    _declare(watch, ClipBatch, "to")
    _stand_in_for_results(watch)


def _declare(watch: Watch, place: Any, name: str) -> None:
    run = getattr(place, name)

    def declared(*args: Any, **kwargs: Any) -> Any:
        with watch.declared():
            return run(*args, **kwargs)

    setattr(place, name, declared)


def _stand_in_for_results(watch: Watch) -> None:
    """The end of a video, where values are read: on whole tensors of the right kind."""

    def check_finite(is_finite: Any) -> None:
        assert is_finite.shape == () and is_finite.dtype in (torch.bool, np.bool_)

    def best_classes(context: StreamContext, class_logits: torch.Tensor) -> dict:
        assert class_logits.device == DEVICE and class_logits.dtype == torch.float32
        return {0: [(0, 0.5)], 3: [(1, 0.4)]}

    def compress_tracks(logits: torch.Tensor, frame_size: tuple[int, int], encoder: Any) -> list:
        masks = threshold_frame_masks(logits, frame_size)
        H, W = frame_size
        assert (masks.device, masks.dtype) == (DEVICE, torch.uint8)
        assert tuple(masks.shape) == (*logits.shape[:2], W, H)
        empty = {"size": [H, W], "counts": ""}
        return [[EncodingJob(True, lambda: [empty] * logits.shape[1])] for _ in logits]

    def join(matcher: Any, first: int, *tensors: Any) -> None:
        *on_gpu, _frame_size = tensors
        assert {t.device for t in on_gpu} == {DEVICE}
        assert {t.dtype for t in on_gpu} == {torch.float32}

    seqformer.inference.network.check_finite = check_finite
    seqformer.inference.clip_matching.ClipMatcher.add = join
    _declare(watch, seqformer.inference.clip_stream, "mask_logits")
    StreamContext.best_classes = best_classes
    seqformer.inference.stream.compress_tracks = compress_tracks
    _declare(watch, seqformer.inference.stream, "mask_logits")
