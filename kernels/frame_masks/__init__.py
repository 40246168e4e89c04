"""Masks at the size of the video frame, from logits at stride 4: drawn, or as COCO run lengths.

A pixel is set where the logits, interpolated bilinearly without aligned corners, are above zero, as
`torch.nn.functional.interpolate(..., align_corners=False) > 0`; float masks of full size never
exist. Masks lie column by column, the order in which COCO counts runs. Letters: h x w cells of the
logits, H x W pixels of the frame.
"""

from __future__ import annotations

import ctypes
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..backend import is_reference_chosen, kernel_implementation
from ..c_library import library, run_jobs
from ..tracing import is_watched

_CHUNK = 1 << 22
"""Pixels that the plain path interpolates at once."""


class RunLengths(NamedTuple):
    """Run-length codes of masks, in COCO's compressed text.

    Attributes:
        counts: one text per mask.
        areas: pixels set in each.
    """

    counts: list[str]
    areas: list[int]


def threshold_masks(logits: Tensor, frame_size: tuple[int, int], packed: bool = False) -> Tensor:
    """Masks of the frame's size from logits.

    Args:
        logits: [..., h, w], any float dtype; stretched over the whole frame.
        frame_size: (H, W).
        packed: eight pixels a byte, the uppermost in the lowest bit: an eighth of the memory and of
            the copy from a GPU. `numpy.unpackbits(x, axis=-1, count=H, bitorder="little")` undoes
            it.

    Returns: uint8 [..., W, H], 0 or 1, column by column; packed [..., W, ceil(H / 8)].
    Raises: ValueError when logits are not float maps or the frame has no pixels.
    """
    _check(logits, frame_size)
    H, W = frame_size
    flat = logits.reshape(-1, *logits.shape[-2:])
    if is_reference_chosen(logits):
        masks = _reference(flat, H, W)
        masks = pack_columns(masks) if packed else masks
    else:
        run = _threshold if is_watched(logits) else _run
        masks = run(flat, H, W, packed)
    return masks.view(*logits.shape[:-2], *masks.shape[1:])


def encode_masks(logits: Tensor, frame_size: tuple[int, int]) -> RunLengths | None:
    """Run-length codes of the masks that `threshold_masks` draws, without drawing them.

    The text is what `pycocotools.mask.encode` gives for those masks. Logits on a GPU are copied to
    the host, which takes fewer bytes than masks would.

    Args:
        logits: [M, h, w], any float dtype.
        frame_size: (H, W).

    Returns: None where no C compiler was found: then draw masks and encode those.
    Raises: ValueError as `threshold_masks`.
    """
    _check(logits, frame_size)
    compiled = library("frame_masks", torch.float32)
    if compiled is None:
        return None
    logits = logits.detach().to(device="cpu", dtype=torch.float32).contiguous()
    M = logits.shape[0]
    length, area = (torch.zeros(M, dtype=torch.int64) for _ in range(2))
    # Most masks change their value a few times per column; where that is too little, once more.
    capacity = 16 * (frame_size[1] + 16)
    text = torch.empty(M, capacity, dtype=torch.uint8)
    _draw(compiled, logits, frame_size, None, text, length, area)
    counts = [
        None if n < 0 else bytes(row[:n]).decode("ascii")
        for row, n in zip(text.numpy(), length.tolist(), strict=True)
    ]
    for mask in [i for i, c in enumerate(counts) if c is None]:
        text = torch.empty(1, 6 * (frame_size[0] * frame_size[1] + 1), dtype=torch.uint8)
        one = torch.zeros(1, dtype=torch.int64)
        _draw(compiled, logits[mask : mask + 1], frame_size, None, text, one, one.clone())
        counts[mask] = bytes(text[0, : int(one)].numpy()).decode("ascii")
    return RunLengths(counts, area.tolist())


def _check(logits: Tensor, frame_size: tuple[int, int]) -> None:
    if logits.dim() < 2 or not logits.is_floating_point() or 0 in logits.shape[-2:]:
        raise ValueError(
            f"logits must be float maps [..., h, w], got {logits.dtype} {list(logits.shape)}"
        )
    if len(frame_size) != 2 or min(frame_size) < 1:
        raise ValueError(f"frame_size must be a positive (height, width), got {frame_size}")


@torch.library.custom_op("seqformer_kernels::threshold_masks", mutates_args=())
def _threshold(logits: Tensor, height: int, width: int, packed: bool) -> Tensor:
    return _run(logits, height, width, packed)


@torch.no_grad()
def _run(logits: Tensor, height: int, width: int, packed: bool) -> Tensor:
    if kernel_implementation(logits) == "triton":
        from .triton_forward import threshold_masks_triton

        return threshold_masks_triton(logits, height, width, packed)
    compiled = library("frame_masks", torch.float32)
    if compiled is None or logits.dtype == torch.float64:
        masks = _reference(logits, height, width)
    else:
        masks = torch.empty(logits.shape[0], width, height, dtype=torch.uint8)
        area = torch.zeros(logits.shape[0], dtype=torch.int64)
        _draw(compiled, logits.float().contiguous(), (height, width), masks, None, area, area)
    return pack_columns(masks) if packed else masks


@_threshold.register_fake
def _(logits: Tensor, height: int, width: int, packed: bool) -> Tensor:
    rows = (height + 7) // 8 if packed else height
    return logits.new_empty(logits.shape[0], width, rows, dtype=torch.uint8)


@register_flop_formula(torch.ops.seqformer_kernels.threshold_masks)
def _flops(logits: tuple[int, ...], height: int, width: int, *args: object, **kw: object) -> int:
    return 8 * logits[0] * height * width


def _reference(logits: Tensor, height: int, width: int) -> Tensor:
    """The definition: [M, h, w] -> uint8 [M, W, H]."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    parts = [
        F.interpolate(part[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
        > 0
        for part in wide.split(max(1, _CHUNK // (height * width)))
    ]
    return torch.cat(parts).transpose(1, 2).contiguous().view(torch.uint8)


def pack_columns(masks: Tensor) -> Tensor:
    """uint8 [..., W, H] of 0 and 1 -> eight rows a byte, the uppermost in the lowest bit."""
    masks = F.pad(masks, (0, -masks.shape[-1] % 8)).unflatten(-1, (-1, 8))
    bits = torch.arange(8, device=masks.device, dtype=torch.uint8)
    return (masks << bits).sum(-1, dtype=torch.uint8)


def source_cells(size: int, target: int) -> tuple[Tensor, Tensor]:
    """Along an axis: the lower cell of each pixel (int32), and the weight of the one after it."""
    scale = torch.tensor(size, dtype=torch.float32) / target
    position = ((torch.arange(target) + 0.5) * scale - 0.5).clamp_(min=0)
    low = position.floor().clamp_(max=size - 1)
    return low.int(), position - low


class _Arguments(ctypes.Structure):
    _fields_ = (
        *[("logits", ctypes.c_void_p)],
        *[(name, ctypes.c_int64) for name in ("h", "w", "H", "W")],
        *[(name, ctypes.c_void_p) for name in ("low_x", "share_x", "low_y", "share_y")],
        *[(name, ctypes.c_void_p) for name in ("space", "dense", "text")],
        ("capacity", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("length", "area")],
    )


def _draw(
    compiled: ctypes.CDLL,
    logits: Tensor,
    frame_size: tuple[int, int],
    dense: Tensor | None,
    text: Tensor | None,
    length: Tensor,
    area: Tensor,
) -> None:
    """Fill `dense` [M, W, H] or `text` [M, capacity] with `length`; `area` too. All on the CPU."""
    M, h, w = logits.shape
    (H, W), jobs = frame_size, max(1, min(M, torch.get_num_threads()))
    (low_y, share_y), (low_x, share_x) = source_cells(h, H), source_cells(w, W)
    space = torch.empty(jobs, h * w + h)
    arguments = _Arguments(
        logits.data_ptr(), h, w, H, W,
        low_x.data_ptr(), share_x.data_ptr(), low_y.data_ptr(), share_y.data_ptr(),
        space.data_ptr(),
        None if dense is None else dense.data_ptr(),
        None if text is None else text.data_ptr(),
        0 if text is None else text.shape[1],
        length.data_ptr(), area.data_ptr(),
    )  # fmt: skip
    cuts = [M * i // jobs for i in range(jobs + 1)]
    run_jobs(
        compiled.draw_masks,
        [
            (ctypes.byref(arguments), ctypes.c_int64(a), ctypes.c_int64(b), ctypes.c_int64(i))
            for i, (a, b) in enumerate(pairwise(cuts))
        ],
    )
