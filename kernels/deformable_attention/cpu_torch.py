"""Deformable attention in plain PyTorch for CPUs: every query is a weighted bag of value rows.

The path of machines without a C compiler (`cpu.py` has the other). A sample is four corners,
so a (query, head) pair reads E = 4*L*P rows of `value` with known weights. That is an embedding
bag: one pass, nothing of size D per sample is ever stored. The gradient of `value` is the same bag
turned round (sort the corners by row, bag the queries), the gradient of the weights one dot product
per corner. No atomics: the result does not depend on the thread count.

Index arithmetic in eager torch is many passes over its temporaries, so it runs in blocks of
queries that stay in cache; whole images are grouped until a bag is worth its call. Letters as in
`__init__.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK_CORNERS = 1 << 17
"""Corners per block of index arithmetic: temporaries of half a megabyte stay in cache."""
_GROUP_CORNERS = 1 << 20
"""Corners per embedding bag: enough to hide the call, few enough for the sort to stay cheap."""


@dataclass
class _Table:
    """The value rows of a group of images, [images*S*M, D], and where the levels lie in it.

    Constants are spread over the last axis [M*L*P], so that every pass runs over long rows.

    Attributes:
        width: [M*L*P] level width in cells; height likewise.
        row_stride: [M*L*P] table rows from a cell to the one below it.
        start: [M*L*P] table row of the first cell of the level for the head, image 0.
        image_stride: table rows of an image.
        heads: M, table rows from a cell to the next in x.
    """

    width: Tensor
    height: Tensor
    row_stride: Tensor
    start: Tensor
    image_stride: int
    heads: int

    @classmethod
    def of(
        cls,
        shapes: Sequence[tuple[int, int]],
        heads: int,
        points: int,
        images: int,
        dtype: torch.dtype,
    ) -> _Table:
        tokens = [h * w for h, w in shapes]
        integer = torch.int32 if sum(tokens) * heads * images < 2**31 else torch.int64
        starts = [sum(tokens[:i]) * heads for i in range(len(tokens))]

        def spread(numbers: list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(numbers, dtype=dtype).repeat_interleave(points).repeat(heads)

        head = torch.arange(heads, dtype=integer).repeat_interleave(len(shapes) * points)
        return cls(
            width=spread([w for _, w in shapes], dtype),
            height=spread([h for h, _ in shapes], dtype),
            row_stride=spread([w * heads for _, w in shapes], integer),
            start=spread(starts, integer) + head,
            image_stride=sum(tokens) * heads,
            heads=heads,
        )


def _axis(location: Tensor, size: Tensor, integer: torch.dtype) -> tuple[Tensor, ...]:
    """One coordinate of a block of samples.

    Args:
        location: [n, M*L*P] in 0..1.
        size: [M*L*P] cells of the level along this axis.

    Returns: the two cells (inside the level, integer), their weights (zero where the true cell is
        outside), and whether each is inside (0 or 1); six tensors [n, M*L*P].
    """
    # Far-away points are all alike; clamping keeps them (and NaN) inside the integer range.
    position = (location * size).sub_(0.5).nan_to_num_(nan=-4.0, posinf=2e9, neginf=-4.0)
    position = torch.minimum(position.clamp_(min=-4.0), size + 4.0)
    low = position.floor()
    high_weight = position.sub_(low)
    low_weight = 1 - high_weight
    high = low + 1
    last = size - 1
    low_cell = torch.minimum(low.clamp(min=0), last)
    high_cell = torch.minimum(high.clamp(min=0), last)
    low_inside = (low == low_cell).to(size.dtype)
    high_inside = (high == high_cell).to(size.dtype)
    return (
        low_cell.to(integer),
        high_cell.to(integer),
        low_weight.mul_(low_inside),
        high_weight.mul_(high_inside),
        low_inside,
        high_inside,
    )


@dataclass
class _Corners:
    """Where a block of queries reads, and how much: all [n, M*L*P].

    Attributes:
        x_weights, y_weights: bilinear weights of the low and the high cell.
        x_inside, y_inside: 1 where that cell exists, else 0.
    """

    x_weights: tuple[Tensor, Tensor]
    y_weights: tuple[Tensor, Tensor]
    x_inside: tuple[Tensor, Tensor]
    y_inside: tuple[Tensor, Tensor]


def _corners(
    table: _Table,
    locations: Tensor,
    attention: Tensor,
    image: Tensor,
    rows_out: Tensor,
    weights_out: Tensor,
) -> _Corners:
    """Fill the bags of a block of queries.

    Args:
        locations: [n, M, L, P, 2]; attention: [n, M, L, P].
        image: [n] image of each query within its group.
        rows_out, weights_out: [n, M, 4, L*P], written: table rows and weights; corners in the order
            (low y, low x), (low y, high x), (high y, low x), (high y, high x).
    """
    integer = table.start.dtype
    x0, x1, wx0, wx1, ix0, ix1 = _axis(locations[..., 0].flatten(1), table.width, integer)
    y0, y1, wy0, wy1, iy0, iy1 = _axis(locations[..., 1].flatten(1), table.height, integer)
    start = table.start + (image * table.image_stride)[:, None]
    y0 = y0.mul_(table.row_stride).add_(start)
    y1 = y1.mul_(table.row_stride).add_(start)
    x0, x1 = x0.mul_(table.heads), x1.mul_(table.heads)
    attention = attention.flatten(1)
    bag = (rows_out.shape[0], rows_out.shape[1], rows_out.shape[3])
    for i, (y, wy) in enumerate(((y0, wy0 * attention), (y1, wy1 * attention))):
        for j, (x, wx) in enumerate(((x0, wx0), (x1, wx1))):
            torch.add(y.view(bag), x.view(bag), out=rows_out[:, :, 2 * i + j])
            torch.mul(wy.view(bag), wx.view(bag), out=weights_out[:, :, 2 * i + j])
    return _Corners((wx0, wx1), (wy0, wy1), (ix0, ix1), (iy0, iy1))


def _groups(B: int, Q: int, corners_per_query: int) -> Iterator[tuple[slice, list[slice]]]:
    """Slices of images, each with slices of its flattened (image, query) axis, sized as above."""
    images = max(1, _GROUP_CORNERS // max(Q * corners_per_query, 1))
    block = max(1, _BLOCK_CORNERS // corners_per_query)
    for first in range(0, B, images):
        group = slice(first, min(first + images, B))
        queries = (group.stop - group.start) * Q
        yield group, [slice(a, min(a + block, queries)) for a in range(0, queries, block)]


def forward(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """As `ms_deform_attn`; all tensors float32 or all float64, already checked."""
    B, S, M, D = value.shape
    _, Q, _, L, P, _ = sampling_locations.shape
    output = value.new_zeros(B, Q, M * D)
    if 0 in (output.numel(), S, L * P):
        return output
    value = value.contiguous()
    table = _Table.of(shapes, M, P, B, value.dtype)
    for group, blocks in _groups(B, Q, 4 * M * L * P):
        locations = sampling_locations[group].flatten(0, 1)
        attention = attention_weights[group].flatten(0, 1)
        n = locations.shape[0]
        image = torch.arange(n, dtype=table.start.dtype) // Q
        rows = torch.empty(n, M, 4, L * P, dtype=table.start.dtype)
        weights = value.new_empty(rows.shape)
        for part in blocks:
            _corners(
                table, locations[part], attention[part], image[part], rows[part], weights[part]
            )
        output[group] = F.embedding_bag(
            rows.view(n * M, -1),
            value[group].view(-1, D),
            per_sample_weights=weights.view(n * M, -1),
            mode="sum",
        ).view(-1, Q, M * D)
    return output


def backward(
    grad_output: Tensor,
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    needs_value: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value (zero unless `needs_value`), locations and weights."""
    B, S, M, D = value.shape
    _, Q, _, L, P, _ = sampling_locations.shape
    grad_value = torch.zeros_like(value, memory_format=torch.contiguous_format)
    grad_locations = torch.zeros_like(sampling_locations, memory_format=torch.contiguous_format)
    grad_attention = torch.zeros_like(attention_weights, memory_format=torch.contiguous_format)
    if 0 in (grad_output.numel(), S, L * P):
        return grad_value, grad_locations, grad_attention
    value, grad_output = value.contiguous(), grad_output.contiguous()
    table = _Table.of(shapes, M, P, B, value.dtype)
    E = 4 * L * P
    for group, blocks in _groups(B, Q, M * E):
        locations = sampling_locations[group].flatten(0, 1)
        attention = attention_weights[group].flatten(0, 1)
        value_rows = value[group].view(-1, D)
        grad_rows = grad_output[group].view(-1, D)  # [n*M, D]
        n = locations.shape[0]
        image = torch.arange(n, dtype=table.start.dtype) // Q
        rows = torch.empty(n, M, 4, L * P, dtype=table.start.dtype)
        weights = value.new_empty(rows.shape)
        d_locations, d_attention = torch.empty_like(locations), torch.empty_like(attention)
        bag = torch.arange(blocks[0].stop * M, dtype=rows.dtype)
        owner = bag.repeat_interleave(E)
        for part in blocks:
            a = attention[part]
            corners = _corners(table, locations[part], a, image[part], rows[part], weights[part])
            bags = a.shape[0] * M
            # <grad, value row> of every corner
            dot = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                grad_rows[part.start * M : part.start * M + bags],
                value_rows,
                rows[part].flatten(),
                bag[:bags] * E,
                owner[: bags * E],
                0,
            ).view(-1, M, 4, L * P)
            _sample_gradients(dot, corners, table, a, d_locations[part], d_attention[part])
        grad_locations[group] = d_locations.view(-1, Q, *d_locations.shape[1:])
        grad_attention[group] = d_attention.view(-1, Q, *d_attention.shape[1:])
        if needs_value:
            grad_value[group] = _scatter_rows(
                rows.flatten(), weights.flatten(), grad_rows, E, value_rows.shape[0]
            ).view(-1, S, M, D)
    return grad_value, grad_locations, grad_attention


def _sample_gradients(
    dot: Tensor,
    corners: _Corners,
    table: _Table,
    attention: Tensor,
    locations_out: Tensor,
    attention_out: Tensor,
) -> None:
    """From the corner products to the gradients of a block's locations and attention weights.

    A sample is sum_ij wy_i wx_j v_ij; a weight falls (low) or rises (high) by one per cell while
    its cell exists, and a location is `size` cells long.

    Args:
        dot: [n, M, 4, L*P], <grad, v_ij>.
        attention: [n, M, L, P].
        locations_out: [n, M, L, P, 2] and attention_out: [n, M, L, P], written.
    """
    n = dot.shape[0]
    d00, d01, d10, d11 = (c.reshape(n, -1) for c in dot.unbind(2))  # [n, M*L*P]
    (wx0, wx1), (wy0, wy1) = corners.x_weights, corners.y_weights
    (ix0, ix1), (iy0, iy1) = corners.x_inside, corners.y_inside
    along_x0 = (d00 * wy0).addcmul_(d10, wy1)  # blended in y, at the low and the high x
    along_x1 = (d01 * wy0).addcmul_(d11, wy1)
    along_y0 = d00.mul_(wx0).addcmul_(d01, wx1)
    along_y1 = d10.mul_(wx0).addcmul_(d11, wx1)
    attention_out.view(n, -1).copy_((along_x0 * wx0).addcmul_(along_x1, wx1))
    slope_x = along_x1.mul_(ix1).addcmul_(along_x0, ix0, value=-1).mul_(table.width)
    slope_y = along_y1.mul_(iy1).addcmul_(along_y0, iy0, value=-1).mul_(table.height)
    attention = attention.flatten(1)
    torch.mul(slope_x, attention, out=locations_out.view(n, -1, 2)[..., 0])
    torch.mul(slope_y, attention, out=locations_out.view(n, -1, 2)[..., 1])


def _scatter_rows(rows: Tensor, weights: Tensor, grad: Tensor, E: int, length: int) -> Tensor:
    """Sum over corners of weight * grad into their table rows: [length, D].

    The stable sort fixes the order of summation, so the result is the same in every run.
    """
    ordered, corner = torch.sort(rows, stable=True)
    bounds = torch.arange(length, dtype=rows.dtype)
    offsets = torch.searchsorted(ordered, bounds, out_int32=rows.dtype == torch.int32)
    # corner // E, but integer division does not vectorise: half a corner on, the float64 quotient
    # truncates to the same number.
    bag = ((corner.double() + 0.5) / E).to(rows.dtype)
    return F.embedding_bag(bag, grad, offsets, per_sample_weights=weights[corner], mode="sum")
