"""Split products by the C code (`cpu.c`); there is no other path. Letters as in `__init__.py`."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from ..c_library import library, why_not
from ..jobs import run
from . import reference

BAND_BYTES = 1 << 20
"""Of a band's inputs in three parts: half of the cache next to a core."""
JOBS_PER_THREAD = 4


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """The C code where the processor and the system have AMX."""
    compiled = library("split_product", torch.float32)
    return compiled if compiled is not None and compiled.is_supported() else None


def why_not_available() -> str | None:
    """Why there are no split products here; None where there are."""
    if _library() is not None:
        return None
    if library("split_product", torch.float32) is None:
        return why_not("split_product", torch.float32)
    return "the processor, the system or the compiler has no AMX"


def split(weight: Tensor) -> Tensor:
    """`reference.split`, in a tenth of its time where there is C code."""
    compiled = _library()
    if compiled is None:
        return reference.split(weight)
    outputs, C, k, _ = weight.shape
    shape = (
        -(-outputs // reference.BLOCK),
        C // reference.BLOCK,
        k,
        k,
        reference.PARTS,
        2,
        16,
        16,
        2,
    )
    weight, parts = weight.contiguous(), weight.new_empty(shape, dtype=torch.bfloat16)
    numbers = (ctypes.c_int64(x) for x in (outputs, C, k))
    compiled.split_weight(
        ctypes.c_void_p(weight.data_ptr()), *numbers, ctypes.c_void_p(parts.data_ptr())
    )
    return parts


def forward(
    x: Tensor,
    parts: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    outputs: int,
    stride: int,
    padding: int,
    relu: bool,
    is_in_place: bool = False,
) -> Tensor:
    """[n, C, h, w] -> [n, O, H, W], channels innermost; in place, it is written into `other`.

    Raises: ValueError where `other` does not fit, RuntimeError where it is not available.
    """
    compiled = _library()
    if compiled is None:
        raise RuntimeError(f"split products: {why_not_available()}")
    n, C, h, w = x.shape
    k = parts.shape[2]
    H, W = reference.result_size(x, parts, stride, padding)
    if other is not None and not _is_map(other, (n, outputs, H, W)):
        raise ValueError(
            f"what is added to must be float32 {[n, outputs, H, W]} with channels innermost, got "
            f"{other.dtype} {list(other.shape)}"
        )
    if other is not None and is_in_place:
        result = other
    else:
        result = x.new_empty(n, H, W, outputs).permute(0, 3, 1, 2)
    if not result.numel():
        return result
    if not _has_channels_innermost(x):
        x = x.contiguous(memory_format=torch.channels_last)
    image = x.stride(0) if n > 1 else h * w * C
    bias = None if bias is None else bias.contiguous()
    if k == 1 and stride == 1 and padding == 0 and image == h * w * C:
        n, h, w, H, W = 1, n * h * w, 1, n * H * W, 1  # pixels in a row
    rows, bands, joined = _bands(n, H, W, C, k, stride)
    count = -(-n // joined) * bands
    arguments = _Arguments(
        x.data_ptr(), parts.data_ptr(),
        None if bias is None else bias.data_ptr(),
        None if other is None else other.data_ptr(),
        result.data_ptr(),
        n, h, w, C, H, W, outputs, k, stride, padding, relu, image, rows, bands, joined,
    )  # fmt: skip
    number = min(count, _jobs())
    cuts = pairwise(count * i // number for i in range(number + 1))
    jobs = (_Job * number)(*(_Job(*cut) for cut in cuts))
    run(compiled, "multiply", arguments, jobs)
    if any(job.failed for job in jobs):
        raise MemoryError("no memory for the parts of a band")
    return result


def _jobs() -> int:
    """Into how many a product is cut."""
    threads = torch.get_num_threads()
    return 1 if threads == 1 else JOBS_PER_THREAD * threads


def _bands(n: int, H: int, W: int, C: int, k: int, stride: int) -> tuple[int, int, int]:
    """Rows of a band, bands of an image, and images of a band: as many rows as fit the cache, and
    small images together; fewer where threads need work."""
    more, planes = (k - 1) // stride, stride * stride if k > 1 else 1
    row_bytes = (W + more) * C * 6 * planes
    bands = max(-(-H // max(1, BAND_BYTES // row_bytes)), min(H, -(-_jobs() // n)))
    rows = -(-H // bands)
    joined = max(1, min(n // _jobs(), BAND_BYTES // ((H + more) * row_bytes)))
    return rows, -(-H // rows), joined if rows == H else 1


def _is_map(x: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether it is a float32 map of a shape, its images one after the other."""
    has_type = tuple(x.shape) == shape and x.dtype == torch.float32
    return has_type and _has_channels_innermost(x) and x.stride(0) in (x[0].numel(), x.numel())


def _has_channels_innermost(x: Tensor) -> bool:
    """Whether [n, C, h, w] is [h, w, C] in memory, image by image."""
    _, C, h, w = x.shape
    expected = ((C, 1), (h, w * C), (w, C))
    return all(
        size == 1 or stride == own
        for (size, stride), own in zip(expected, x.stride()[1:], strict=True)
    )


class _Job(ctypes.Structure):
    """`Job` of cpu.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("first", "last", "failed")]


class _Arguments(ctypes.Structure):
    """`Arguments` of cpu.c; absent pointers are null."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "other", "output")),
        *((name, ctypes.c_int64) for name in ("n", "h", "w", "C", "H", "W", "O")),
        *((name, ctypes.c_int64) for name in ("kernel", "stride", "padding", "relu")),
        *((name, ctypes.c_int64) for name in ("image", "rows", "bands", "joined")),
    ]
