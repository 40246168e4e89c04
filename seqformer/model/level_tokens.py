"""Between maps of the levels and tokens, as operators of a compiler's graph.

The number of tokens S is the sum of the levels' areas. Of heights and widths that are symbols it is
a sum of products of quotients, and inductor would carry and simplify it in every kernel of encoder
and decoder. Here it is the size of an input of the graph (`place`), a symbol of its own, and these
operators are where it meets the sizes of the maps. They check it when they run.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

Pairs = list[tuple[int, int]]
# Inductor must not bring inputs into the strides of eager, which it would compare as symbols.
_operator = partial(torch.library.custom_op, mutates_args=(), tags=(torch.Tag.flexible_layout,))


def tokens_of_maps(maps: list[Tensor], place: Tensor) -> Tensor:
    """L maps [n, C, h, w] -> [n, S, C].

    Args:
        place: [S], of any values.
    """
    return _tokens_of_maps(maps, place)


def maps_of_tokens(tokens: Tensor, shapes: Pairs) -> list[Tensor]:
    """[n, S, C] -> maps [n, C, h, w] of the first levels, contiguous.

    Args:
        shapes: of these levels (h, w); their areas sum to S or less.
    """
    return _maps_of_tokens(tokens, [side for shape in shapes for side in shape])


def level_rows(rows: Tensor, shapes: Pairs, place: Tensor) -> Tensor:
    """Row l of [L, C] for every token of level l: [S, C]; `place` as in `tokens_of_maps`."""
    return _level_rows(rows, [side for shape in shapes for side in shape], place)


@_operator("seqformer_model::tokens_of_maps")
def _tokens_of_maps(maps: list[Tensor], place: Tensor) -> Tensor:
    tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
    if tokens.shape[1] != place.shape[0]:
        raise ValueError(f"the levels hold {tokens.shape[1]} tokens, not {place.shape[0]}")
    return tokens


@_tokens_of_maps.register_fake
def _(maps: list[Tensor], place: Tensor) -> Tensor:
    return maps[0].new_empty(maps[0].shape[0], place.shape[0], maps[0].shape[1])


@_operator("seqformer_model::maps_of_tokens")
def _maps_of_tokens(tokens: Tensor, sizes: list[int]) -> list[Tensor]:
    maps, start = [], 0
    for h, w in _pairs(sizes):
        level = tokens[:, start : start + h * w].transpose(1, 2)
        maps.append(level.unflatten(2, (h, w)).contiguous())
        start += h * w
    return maps


@_maps_of_tokens.register_fake
def _(tokens: Tensor, sizes: list[int]) -> list[Tensor]:
    n, _, C = tokens.shape
    return [tokens.new_empty(n, C, h, w) for h, w in _pairs(sizes)]


@_operator("seqformer_model::level_rows")
def _level_rows(rows: Tensor, sizes: list[int], place: Tensor) -> Tensor:
    return torch.cat([rows[i].expand(h * w, -1) for i, (h, w) in enumerate(_pairs(sizes))])


@_level_rows.register_fake
def _(rows: Tensor, sizes: list[int], place: Tensor) -> Tensor:
    return rows.new_empty(place.shape[0], rows.shape[1])


@_operator("seqformer_model::level_sums")
def _level_sums(tokens: Tensor, sizes: list[int]) -> Tensor:
    """[S, C] -> [L, C], summed over the tokens of every level."""
    areas = [h * w for h, w in _pairs(sizes)]
    return torch.stack([level.sum(0) for level in tokens.split(areas)])


@_level_sums.register_fake
def _(tokens: Tensor, sizes: list[int]) -> Tensor:
    return tokens.new_empty(len(sizes) // 2, tokens.shape[1])


@_operator("seqformer_model::tokens_of_some_maps")
def _tokens_of_some_maps(maps: list[Tensor], count: int) -> Tensor:
    """Maps [n, C, h, w] -> [n, S, C] for S = `count`, zero in the levels that have no map."""
    tokens = maps[0].new_zeros(maps[0].shape[0], count, maps[0].shape[1])
    start = 0
    for m in maps:
        area = m.shape[2] * m.shape[3]
        tokens[:, start : start + area] = m.flatten(2).transpose(1, 2)
        start += area
    return tokens


@_tokens_of_some_maps.register_fake
def _(maps: list[Tensor], count: int) -> Tensor:
    return maps[0].new_empty(maps[0].shape[0], count, maps[0].shape[1])


def _keep_sizes(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.sizes = [side for m in inputs[0] for side in m.shape[2:]]


def _keep_count(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.count = inputs[0].shape[1]


def _keep_given_sizes(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.sizes = inputs[1]


_tokens_of_maps.register_autograd(
    lambda ctx, grad: (_maps_of_tokens(grad, ctx.sizes), None), setup_context=_keep_sizes
)
_maps_of_tokens.register_autograd(
    lambda ctx, grads: (_tokens_of_some_maps(grads, ctx.count), None),
    setup_context=_keep_count,
)
_level_rows.register_autograd(
    lambda ctx, grad: (_level_sums(grad, ctx.sizes), None, None),
    setup_context=_keep_given_sizes,
)


def _pairs(sizes: list[int]) -> Pairs:
    return list(zip(sizes[::2], sizes[1::2], strict=True))
