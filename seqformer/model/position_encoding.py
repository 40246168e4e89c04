"""Sine position code and reference points of the encoder: what depends on shapes only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor
from torch._guards import detect_fake_mode

from .padding import level_mask, valid_ratio, valid_shape


def sine_position(padding_mask: Tensor, channels: int) -> Tensor:
    """Position code of a level (DETR, normalised by the unpadded extent).

    Args:
        padding_mask: [B, h, w] bool, True on padding.
        channels: C; the first half codes y, the second x, sine and cosine interleaved.

    Returns: [B, C, h, w] float32.

    parity: on fully padded rows and columns the argument is about -3e6, whose sine depends on the
    last bit; the order of operations is the published one, so that the same bits come out.
    """
    valid = ~padding_mask
    # Counted in integers: a GPU adds floats up in no fixed order.
    y = valid.cumsum(1, dtype=torch.int32)
    x = valid.cumsum(2, dtype=torch.int32)
    scale, eps = 2 * math.pi, 1e-6
    y = (y - 0.5) / (y[:, -1:, :] + eps) * scale
    x = (x - 0.5) / (x[:, :, -1:] + eps) * scale
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=valid.device)
    period = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def encode(angle: Tensor) -> Tensor:
        angle = angle[..., None] / period
        return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=4).flatten(3)

    return rearrange(torch.cat([encode(y), encode(x)], dim=3), "b h w c -> b c h w")


def encoder_reference_points(shapes: list[tuple[int, int]], valid_ratios: Tensor) -> Tensor:
    """Cell centres of every level, on every level.

    Args:
        shapes: L pairs (h, w).
        valid_ratios: [B, L, 2].

    Returns: [B, S, L, 2], (x, y) as shares of the padded levels.
    """
    points = []
    for level, (h, w) in enumerate(shapes):
        y = torch.arange(h, dtype=torch.float32, device=valid_ratios.device) + 0.5
        x = torch.arange(w, dtype=torch.float32, device=valid_ratios.device) + 0.5
        y = y[None] / (valid_ratios[:, level, 1, None] * h)  # [B, h]
        x = x[None] / (valid_ratios[:, level, 0, None] * w)  # [B, w]
        grid = torch.stack(
            [x[:, None, :].expand(-1, h, -1), y[:, :, None].expand(-1, -1, w)], dim=-1
        )
        points.append(rearrange(grid, "b h w xy -> b (h w) xy"))
    return torch.cat(points, dim=1)[:, :, None] * valid_ratios[:, None]


@dataclass(frozen=True)
class Geometry:
    """Where the tokens of a clip's frames are.

    Attributes:
        codes: L sine codes [B, h*w, C], without level embedding.
        reference: [B, S, L, 2], see `encoder_reference_points`.
        valid_ratios: [B, L, 2].
        valid_shapes: [B, L, 2] int32, or None where nothing is padded (B = 1 then, for any batch).
    """

    codes: list[Tensor]
    reference: Tensor
    valid_ratios: Tensor
    valid_shapes: Tensor | None


def geometry_of(padding_mask: Tensor, shapes: list[tuple[int, int]], channels: int) -> Geometry:
    """Of clips [B, H, W] bool whose levels have L shapes (h, w)."""
    masks = [level_mask(padding_mask, shape) for shape in shapes]
    ratios = torch.stack([valid_ratio(mask) for mask in masks], dim=1)
    return Geometry(
        codes=[rearrange(sine_position(mask, channels), "b c h w -> b (h w) c") for mask in masks],
        reference=encoder_reference_points(shapes, ratios),
        valid_ratios=ratios,
        valid_shapes=torch.stack([valid_shape(mask) for mask in masks], dim=1),
    )


def unpadded_geometry(
    shapes: tuple[tuple[int, int], ...], channels: int, device: torch.device
) -> Geometry:
    """Of any clips without padding; kept, since the chunks of a video all ask for the same."""
    # What a tracer makes has no values, and must not be found by a later call.
    if torch.compiler.is_compiling() or detect_fake_mode() is not None:
        return _make_unpadded(shapes, channels, device)
    return _kept_unpadded(shapes, channels, device)


@lru_cache(maxsize=4)
def _kept_unpadded(
    shapes: tuple[tuple[int, int], ...], channels: int, device: torch.device
) -> Geometry:
    # Made in inference mode, it could not be used in a training step later on.
    with torch.inference_mode(False), torch.no_grad():
        return _make_unpadded(shapes, channels, device)


def _make_unpadded(
    shapes: tuple[tuple[int, int], ...], channels: int, device: torch.device
) -> Geometry:
    mask = torch.zeros(1, *shapes[0], dtype=torch.bool, device=device)
    return replace(geometry_of(mask, list(shapes), channels), valid_shapes=None)


def geometry_in_graph(
    padding_mask: Tensor | None, shapes: list[tuple[int, int]], channels: int, place: Tensor
) -> Geometry:
    """`geometry_of`, or `unpadded_geometry` without a mask, for a compiler; `codes` is one for all.

    Each is one operator there: as formulas it would put the sines into every kernel that reads a
    position, and carry their sizes as symbols.

    Args:
        place: [S] on the device, of any values.
    """
    sizes = [side for shape in shapes for side in shape]
    if padding_mask is None:
        code, reference, ratios = _unpadded(place, sizes, channels)
        return Geometry([code], reference, ratios, None)
    code, reference, ratios, valid_shapes = _padded(padding_mask, place, sizes, channels)
    return Geometry([code], reference, ratios, valid_shapes)


@torch.library.custom_op("seqformer_model::padded_geometry", mutates_args=())
def _padded(
    padding_mask: Tensor, place: Tensor, sizes: list[int], channels: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    made = geometry_of(padding_mask, _pairs(sizes), channels)
    assert made.valid_shapes is not None
    return torch.cat(made.codes, dim=1), made.reference, made.valid_ratios, made.valid_shapes


@_padded.register_fake
def _(
    padding_mask: Tensor, place: Tensor, sizes: list[int], channels: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, L = padding_mask.shape[0], len(sizes) // 2
    of_padding = place.new_empty(B, L, 2, dtype=torch.int32)
    return *_empty(place, B, L, channels), of_padding


@torch.library.custom_op("seqformer_model::unpadded_geometry", mutates_args=())
def _unpadded(place: Tensor, sizes: list[int], channels: int) -> tuple[Tensor, Tensor, Tensor]:
    made = _kept_unpadded(tuple(_pairs(sizes)), channels, place.device)
    # Copies: a compiled program writes over what it has no more use for.
    return torch.cat(made.codes, dim=1), made.reference.clone(), made.valid_ratios.clone()


@_unpadded.register_fake
def _(place: Tensor, sizes: list[int], channels: int) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(place, 1, len(sizes) // 2, channels)


def _empty(place: Tensor, B: int, L: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    S = place.shape[0]
    return (
        place.new_empty(B, S, channels, dtype=torch.float32),
        place.new_empty(B, S, L, 2, dtype=torch.float32),
        place.new_empty(B, L, 2, dtype=torch.float32),
    )


def _pairs(sizes: list[int]) -> list[tuple[int, int]]:
    return list(zip(sizes[::2], sizes[1::2], strict=True))
