"""Masks of the frame's size for CPUs in C (`cpu.c`), drawn or encoded; letters as in `__init__.py`.

Where there is no compiler, the definition draws.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from ..c_library import library, why_not
from ..jobs import run
from . import reference


def forward(logits: Tensor, height: int, width: int, packed: bool) -> Tensor:
    """[M, h, w] -> uint8 [M, W, H], or packed [M, W, ceil(H / 8)]."""
    compiled = compiled_for(logits)
    if compiled is None:
        masks = reference.threshold_masks(logits, height, width)
    else:
        masks = torch.empty(logits.shape[0], width, height, dtype=torch.uint8)
        area = torch.zeros(logits.shape[0], dtype=torch.int64)
        _draw(compiled, logits.float().contiguous(), (height, width), masks, None, area, area)
    return reference.pack_columns(masks) if packed else masks


def compiled_for(logits: Tensor) -> ctypes.CDLL | None:
    """The C code, unless it cannot be compiled or the logits are float64."""
    return None if logits.dtype == torch.float64 else library("frame_masks", torch.float32)


def why_not_compiled(logits: Tensor) -> str | None:
    """Why `compiled_for` gives none; None where it gives one."""
    if compiled_for(logits) is not None:
        return None
    is_double = logits.dtype == torch.float64
    return "the logits are float64" if is_double else why_not("frame_masks", torch.float32)


def encode(logits: Tensor, frame_size: tuple[int, int]) -> tuple[list[str], list[int]] | None:
    """COCO's texts of masks [M, h, w] and their areas; None where there is no compiler."""
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
    lengths = length.tolist()
    counts = [
        bytes(row[: max(n, 0)]).decode("ascii")
        for row, n in zip(text.numpy(), lengths, strict=True)
    ]
    for mask in [i for i, n in enumerate(lengths) if n < 0]:
        text = torch.empty(1, 6 * (frame_size[0] * frame_size[1] + 1), dtype=torch.uint8)
        one = torch.zeros(1, dtype=torch.int64)
        _draw(compiled, logits[mask : mask + 1], frame_size, None, text, one, one.clone())
        counts[mask] = bytes(text[0, : int(one)].numpy()).decode("ascii")
    return counts, area.tolist()


@lru_cache(maxsize=64)
def _axis(size: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """`source_cells`, kept, and the first pixel of each cell or a later one, [size + 1] int32."""
    with torch.inference_mode(False):
        low, share = source_cells(size, target)
        first = torch.searchsorted(low, torch.arange(size + 1, dtype=torch.int32), out_int32=True)
    return low, share, first


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
        *[(name, ctypes.c_void_p) for name in ("low_x", "share_x", "first_y", "share_y")],
        *[(name, ctypes.c_void_p) for name in ("dense", "text")],
        ("capacity", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("length", "area")],
    )


class _Job(ctypes.Structure):
    _fields_ = (*((n, ctypes.c_int64) for n in ("begin", "end")), ("space", ctypes.c_void_p))


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
    (_, share_y, first_y), (low_x, share_x, _) = _axis(h, H), _axis(w, W)
    space = torch.empty(jobs, h * w + h)
    arguments = _Arguments(
        logits.data_ptr(), h, w, H, W,
        low_x.data_ptr(), share_x.data_ptr(), first_y.data_ptr(), share_y.data_ptr(),
        None if dense is None else dense.data_ptr(),
        None if text is None else text.data_ptr(),
        0 if text is None else text.shape[1],
        length.data_ptr(), area.data_ptr(),
    )  # fmt: skip
    cuts = pairwise(M * i // jobs for i in range(jobs + 1))
    rows = ((*cut, row.data_ptr()) for cut, row in zip(cuts, space, strict=True))
    run(compiled, "draw_masks", arguments, (_Job * jobs)(*(_Job(*row) for row in rows)))
