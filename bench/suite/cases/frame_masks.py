"""One video: masks of the size of the frame, and their run lengths, from logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from bench.suite.schema import Call, Case, Cost, Side, Size

EDGE = 1e-2
"""Tolerance of drawn masks: by norm, one pixel in ten thousand, on edges where rounding decides."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """T frames of height x width pixels, with logits of h x w cells."""

    frames: int
    cells: tuple[int, int]
    size: tuple[int, int]

    def logits(self, device: torch.device) -> Tensor:
        """[T, h, w]: one round object each, with an uneven edge."""
        g = torch.Generator().manual_seed(0)
        T, (h, w) = self.frames, self.cells
        centre = torch.rand(T, 2, 1, 1, generator=g)
        radius = 0.05 + 0.3 * torch.rand(T, 1, 1, generator=g)
        y, x = torch.arange(h)[:, None] / h, torch.arange(w) / w
        distance = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt()
        return (40 * (radius - distance) + 0.5 * torch.randn(T, h, w, generator=g)).to(device)

    def logit_bytes(self) -> int:
        return 4 * self.frames * self.cells[0] * self.cells[1]

    def pixels(self) -> int:
        return self.frames * self.size[0] * self.size[1]


SMOKE = Video(frames=3, cells=(8, 12), size=(30, 45))
REAL = Video(frames=36, cells=(90, 160), size=(720, 1280))


def cases(size: Size) -> Iterator[Case]:
    """Drawn, drawn at eight pixels a byte, and encoded."""
    video = SMOKE if size == "smoke" else REAL
    yield _case(
        "draw masks",
        video,
        {"ours": _draw, "published": _interpolate},
        written=video.pixels(),
        baseline="published",
    )
    yield _case(
        "draw packed masks",
        video,
        {"ours": partial(_draw, packed=True), "interpolated, then packed": _interpolate_and_pack},
        written=video.pixels() // 8,
        baseline="interpolated, then packed",
    )
    yield _case(
        "run lengths",
        video,
        {"ours": _encode, "draw and encode": _draw_and_encode, "published": _published_encode},
        written=0,
        baseline="published",
        available=_can_encode,
    )


def _case(
    op: str,
    video: Video,
    sides: dict[str, Callable[[Tensor, Video], object]],
    written: int,
    baseline: str,
    available: Callable[[torch.device], bool] = lambda device: True,
) -> Case:
    def build(run: Callable[[Tensor, Video], object], device: torch.device) -> Call:
        logits = video.logits(device)
        return lambda: run(logits, video)

    H, W = video.size
    return Case(
        name=f"{op} T={video.frames} {H}x{W}",
        op=op,
        group="kernels",
        sides=tuple(
            Side(name=name, build=partial(build, run), available=available)
            for name, run in sides.items()
        ),
        direction="forward",
        shapes={"N": 1, "T": video.frames, "H": H, "W": W},
        cost=Cost(bytes=video.logit_bytes() + written),
        units=("frames", video.frames),
        baseline=baseline,
        tolerance=EDGE,
    )


def _draw(logits: Tensor, video: Video, packed: bool = False) -> Tensor:
    return kernels.threshold_masks(logits, video.size, packed=packed)


def _interpolate(logits: Tensor, video: Video) -> Tensor:
    """[T, W, H] bool, seen column by column as ours lies."""
    masks = F.interpolate(logits[:, None], video.size, mode="bilinear", align_corners=False) > 0
    return masks[:, 0].transpose(1, 2)


def _interpolate_and_pack(logits: Tensor, video: Video) -> Tensor:
    return kernels.frame_masks.reference.pack_columns(_interpolate(logits, video).to(torch.uint8))


def _can_encode(device: torch.device) -> bool:
    compiled = kernels.c_library.library("frame_masks", torch.float32)
    return compiled is not None and find_spec("pycocotools") is not None


def _encode(logits: Tensor, video: Video) -> list[str]:
    encoded = kernels.encode_masks(logits, video.size)
    assert encoded is not None  # `_can_encode`
    return encoded.counts


def _draw_and_encode(logits: Tensor, video: Video) -> list[str]:
    return _coco(kernels.threshold_masks(logits, video.size).cpu().numpy().T)


def _published_encode(logits: Tensor, video: Video) -> list[str]:
    """Frame by frame."""
    codes = []
    for frame in logits.split(1):
        mask = _interpolate(frame, video)[0].T.cpu().numpy()
        codes += _coco(np.asfortranarray(mask[..., None].view(np.uint8)))
    return codes


def _coco(masks: np.ndarray) -> list[str]:
    from pycocotools import mask as coco_mask

    return [code["counts"].decode() for code in coco_mask.encode(masks)]
