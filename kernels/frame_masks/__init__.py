"""Masks at the size of the video frame, from logits at stride 4: drawn, or as COCO run lengths.

A pixel is set where the logits, interpolated bilinearly without aligned corners, are above zero, as
`torch.nn.functional.interpolate(..., align_corners=False) > 0`; float masks of full size never
exist. Masks lie column by column, the order in which COCO counts runs. Letters: h x w cells of the
logits, H x W pixels of the frame.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..backend import explained_by, is_reference_chosen
from ..tracing import is_watched
from . import cpu, op, reference


class RunLengths(NamedTuple):
    """Run-length codes of masks, in COCO's compressed text.

    Attributes:
        counts: one text per mask.
        areas: pixels set in each.
    """

    counts: list[str]
    areas: list[int]


@explained_by(cpu.why_not_compiled)
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
        masks = reference.threshold_masks(flat, H, W)
        masks = reference.pack_columns(masks) if packed else masks
    else:
        run = op.forward if is_watched(logits) else op.run
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
    encoded = cpu.encode(logits, frame_size)
    return None if encoded is None else RunLengths(*encoded)


def _check(logits: Tensor, frame_size: tuple[int, int]) -> None:
    if logits.dim() < 2 or not logits.is_floating_point() or 0 in logits.shape[-2:]:
        raise ValueError(
            f"logits must be float maps [..., h, w], got {logits.dtype} {list(logits.shape)}"
        )
    if len(frame_size) != 2 or min(frame_size) < 1:
        raise ValueError(f"frame_size must be a positive (height, width), got {frame_size}")
