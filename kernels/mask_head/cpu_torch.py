"""Dynamic mask head for CPUs without a C compiler: matrix products, on tiles that stay in cache.

In the first layer, only the bias depends on instance and frame at once: relative coordinates are
affine in the cell, so `W (ref - cell) + b` is the product of the instances' weights with rows that
all share, (-x, -y, features, 1), and nothing is repeated per instance. The backward computes the
hidden values of a tile anew. Work is done for blocks of a clip's frames and instances.

Letters as in `__init__.py`; n instances and f frames of a block, p cells of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .inputs import MaskHeadConfig, MaskHeadInputs, in_dtypes

_TILE = 1 << 17
"""Hidden values of a tile: half a megabyte in float32."""
_MAX_INSTANCES = 64
"""Instances of a block; more would make tiles too narrow."""


class Scratch:
    """Buffers that are used again and again: fresh memory costs more than the arithmetic."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Uninitialised, valid until the name is asked for again."""
        size = torch.Size(shape).numel()
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            self._buffers[name] = buffer = torch.empty(size, dtype=self.dtype)
        return buffer[:size].view(shape)


class Block:
    """Some instances of a clip in some of its frames.

    Attributes:
        rows: where the instances are among the N: a slice, or indices.
        frames: slice of the T.
        clip: b.
    """

    def __init__(
        self,
        head: MaskHeadConfig,
        clip: int,
        frames: slice,
        rows: slice | Tensor,
        inputs: Tensor,
        params: Tensor,
        references: Tensor,
        scratch: Scratch,
    ) -> None:
        """
        Args:
            inputs: [f, I + 1, h*w], the rows of the first product (see the module's text).
            params: [n, G]. references: [n, f, 2], relative to the middle of the map.
        """
        self.head, self.clip, self.frames, self.rows = head, clip, frames, rows
        self._inputs, self._references, self._scratch = inputs, references, scratch
        self.f, self.n = inputs.shape[0], params.shape[0]
        D = head.hidden_width
        self._weights: list[Tensor] = []
        self._biases: list[Tensor] = []
        for layer, (weight, bias, outputs, width) in enumerate(head.layers()):
            w, b = params[:, weight].view(self.n, outputs, width), params[:, bias]
            if layer == 0:
                b = b.expand(self.f, self.n, D)
                if head.relative_coordinates:
                    b = b + torch.einsum("nod,nfd->fno", w[:, :, :2], references)
                w = torch.cat([w.expand(self.f, self.n, D, width), b[..., None]], dim=-1)
                self._weights.append(w.flatten(1, 2))  # [f, n*D, I + 1]
            else:
                repeated = w.expand(self.f, *w.shape).reshape(self.f * self.n, outputs, width)
                self._weights.append(repeated)  # [f*n, outputs, D]
            self._biases.append(b.expand(self.f, self.n, outputs).reshape(-1, outputs, 1))

    def _tiles(self) -> Iterator[slice]:
        cells = self._inputs.shape[2]
        size = max(16, _TILE // (self.f * self.n * self.head.hidden_width) // 16 * 16)
        return (slice(a, min(a + size, cells)) for a in range(0, cells, size))

    def _hidden(self, tile: slice, keep: bool) -> list[Tensor]:
        """Units of the hidden layers [f*n, D, p]; only the last, unless all are to be kept."""
        D, p = self.head.hidden_width, tile.stop - tile.start
        units = self._scratch("hidden0", self.f, self.n * D, p)
        torch.bmm(self._weights[0], self._inputs[:, :, tile], out=units)
        hidden = [units.relu_().view(-1, D, p)]
        for layer in range(1, self.head.num_layers - 1):
            name = f"hidden{layer if keep else layer % 2}"
            units = self._scratch(name, self.f * self.n, D, p)
            torch.baddbmm(self._biases[layer], self._weights[layer], hidden[-1], out=units)
            hidden.append(units.relu_())
        return hidden

    def logits(self) -> Tensor:
        """Logits z [f, n, h*w], before upsampling; valid until the next block's."""
        z = self._scratch("z", self.f * self.n, 1, self._inputs.shape[2])
        for tile in self._tiles():
            units = self._hidden(tile, keep=False)[-1]
            torch.baddbmm(self._biases[-1], self._weights[-1], units, out=z[:, :, tile])
        return z.view(self.f, self.n, -1)

    def backward(self, grad: Tensor, grad_features: Tensor | None) -> tuple[Tensor, Tensor]:
        """
        Args:
            grad: [f, n, h*w], of the logits.
            grad_features: [f, C, h*w], added to, unless None.

        Returns: gradients of params [n, G] and references [n, f, 2].
        """
        D, layers, f, n = self.head.hidden_width, self.head.num_layers, self.f, self.n
        scratch, grad = self._scratch, grad.reshape(f * n, 1, -1)
        d_weights = [torch.zeros_like(w) for w in self._weights]
        d_weights[0] = d_weights[0].transpose(1, 2).contiguous()  # [f, I + 1, n*D]
        d_biases = [torch.zeros_like(b) for b in self._biases]
        from_features = slice(2 * self.head.relative_coordinates, self.head.inputs)
        to_features = self._weights[0][:, :, from_features].transpose(1, 2)  # [f, C, n*D]
        for tile in self._tiles():
            p = tile.stop - tile.start
            hidden = self._hidden(tile, keep=True)
            delta = grad[:, :, tile]
            for layer in range(layers - 1, 0, -1):
                units = hidden[layer - 1]
                d_weights[layer].baddbmm_(delta, units.transpose(1, 2))
                d_biases[layer].add_(delta.sum(2, keepdim=True))
                below = scratch(f"delta{layer % 2}", f * n, D, p)
                if layer == layers - 1:
                    torch.mul(self._weights[layer].transpose(1, 2), delta, out=below)
                else:
                    torch.bmm(self._weights[layer].transpose(1, 2), delta, out=below)
                torch.ops.aten.threshold_backward.grad_input(below, units, 0, grad_input=below)
                delta = below
            delta = delta.view(f, n * D, p)
            d_weights[0].baddbmm_(self._inputs[:, :, tile], delta.transpose(1, 2))
            if grad_features is not None:
                share = scratch("grad_tile", f, self.head.channels, p)
                grad_features[:, :, tile].add_(torch.bmm(to_features, delta, out=share))
        return self._gather(d_weights, d_biases)

    def _gather(self, d_weights: list[Tensor], d_biases: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Sum over frames, and take the first layer's bias column apart."""
        f, n = self.f, self.n
        first = d_weights[0].view(f, -1, n, self.head.hidden_width).permute(0, 2, 3, 1)
        d_bias = first[..., -1]  # [f, n, D]
        first = first[..., :-1].sum(0)
        d_references = torch.zeros_like(self._references)
        if self.head.relative_coordinates:
            w = self._weights[0].view(f, n, self.head.hidden_width, -1)[0, :, :, :2]
            first[..., :2] += torch.einsum("fno,nfd->nod", d_bias, self._references)
            d_references = torch.einsum("fno,nod->nfd", d_bias, w)
        weights = [first.flatten(1)]
        weights += [w.view(f, n, -1).sum(0) for w in d_weights[1:]]
        biases = [d_bias.sum(0)] + [b.view(f, n, -1).sum(0) for b in d_biases[1:]]
        return torch.cat(weights + biases, dim=1), d_references


def blocks(inputs: MaskHeadInputs, head: MaskHeadConfig, scratch: Scratch) -> Iterator[Block]:
    """All instances in all frames, a block at a time; a block is valid until the next."""
    features, params, references, clip_index = inputs
    _, T, _, h, w = features.shape
    dtype = scratch.dtype
    params, references = params.to(dtype), references.to(dtype)
    centre = torch.tensor([w * head.stride / 2, h * head.stride / 2], dtype=dtype)
    references = references - centre
    order = torch.argsort(clip_index, stable=True)
    counts = torch.bincount(clip_index, minlength=features.shape[0]).tolist()
    known = clip_index.numpy()
    is_sorted = bool((known[1:] >= known[:-1]).all())
    start = 0
    for clip, count in enumerate(counts):
        step = min(count, _MAX_INSTANCES)
        frames_at_once = max(1, _TILE // max(step * head.hidden_width * h * w, 1))
        for t in range(0, T if count else 0, frames_at_once):
            frames = slice(t, min(t + frames_at_once, T))
            input_rows = _input_rows(features[clip, frames], head, centre, scratch)
            for a in range(start, start + count, step):
                b = min(a + step, start + count)
                rows = slice(a, b) if is_sorted else order[a:b]
                own = params[rows], references[rows, frames]
                yield Block(head, clip, frames, rows, input_rows, *own, scratch)
        start += count


def _input_rows(features: Tensor, head: MaskHeadConfig, centre: Tensor, scratch: Scratch) -> Tensor:
    """[f, C, h, w] -> [f, I + 1, h*w]: (-x, -y,) channels and 1, coordinates from the middle."""
    f, C, h, w = features.shape
    rows = scratch("inputs", f, head.inputs + 1, h, w)
    if head.relative_coordinates:
        for axis, size in ((0, w), (1, h)):
            cells = torch.arange(size, dtype=rows.dtype) * head.stride + head.stride // 2
            cells = centre[axis] - cells
            rows[:, axis] = cells if axis == 0 else cells[:, None]
    rows[:, head.inputs - C : head.inputs] = features
    rows[:, -1] = 1
    return rows.flatten(2)


def forward(inputs: MaskHeadInputs, head: MaskHeadConfig, out: Tensor) -> Tensor:
    """Fill and return [N, T, F*h, F*w]."""
    F, (h, w) = head.upsample, inputs.features.shape[-2:]
    scratch = Scratch(inputs.compute_dtype)
    for block in blocks(inputs, head, scratch):
        z = block.logits().view(block.f, block.n, h, w)
        if isinstance(block.rows, slice) and out.dtype == z.dtype:
            upsample_into(z, out[block.rows, block.frames].transpose(0, 1), F, scratch)
        else:
            pixels = scratch("upsampled", block.f, block.n, F * h, F * w)
            upsample_into(z, pixels, F, scratch)
            out[block.rows, block.frames] = pixels.transpose(0, 1).to(out.dtype)
    return out


def backward(
    grad: Tensor, inputs: MaskHeadInputs, head: MaskHeadConfig, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Results as `op.backward`; None where not asked for."""
    h, w = inputs.features.shape[-2:]
    scratch = Scratch(inputs.compute_dtype)

    def gradient(block: Block) -> Tensor:
        pixels = grad[block.rows, block.frames].transpose(0, 1)
        return upsample_adjoint(pixels, head.upsample, h, w, scratch)

    return backward_blocks(gradient, inputs, head, scratch, needs)


def backward_blocks(
    gradient: Callable[[Block], Tensor],
    inputs: MaskHeadInputs,
    head: MaskHeadConfig,
    scratch: Scratch,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Backward of all blocks; `gradient(block)` is that of its logits, [f, n, h, w]."""
    dtype = scratch.dtype
    d_features = torch.zeros(inputs.features.shape, dtype=dtype) if needs[0] else None
    d_params = torch.zeros(inputs.params.shape, dtype=dtype)
    d_references = torch.zeros(inputs.references.shape, dtype=dtype)
    for block in blocks(inputs, head, scratch):
        to_features = None
        if d_features is not None:
            to_features = d_features[block.clip, block.frames].flatten(2)
        dz = gradient(block).flatten(2)
        share, d_references[block.rows, block.frames] = block.backward(dz, to_features)
        d_params[block.rows] += share
    return in_dtypes((d_features, d_params, d_references), inputs, needs)


def upsample_into(z: Tensor, out: Tensor, F: int, scratch: Scratch) -> None:
    """Aligned upsampling of [f, n, h, w] into [f, n, F*h, F*w]."""
    wide = z
    if F > 1:
        wide = scratch("wide", *z.shape[:3], F * z.shape[3])
        _interpolate(z, wide, F, dim=3)
    _interpolate(wide, out, F, dim=2)


def upsample_adjoint(grad: Tensor, F: int, h: int, w: int, scratch: Scratch) -> Tensor:
    """The transpose of `upsample_into`: [f, n, F*h, F*w] -> [f, n, h, w]."""
    if F == 1:
        return grad.to(scratch.dtype)
    f, n = grad.shape[:2]
    wide = scratch("wide", f, n, h, F * w).zero_()
    _spread(grad, wide, F, dim=2)
    narrow = scratch("z", f, n, h, w).zero_()
    _spread(wide, narrow, F, dim=3)
    return narrow


def _gaps(size: int, F: int) -> Iterator[tuple[float, slice, list[tuple[int, int]]]]:
    """The pixels q / F of the way between neighbouring cells: q / F, where they are, and which
    (pixel, cell) lie beyond the first or last cell. See `aligned_upsample`."""
    for q in range(1, F + 1):
        first = F // 2 - F + q  # of the gap to the left of cell 0
        beyond = [(first, 0)] if first >= 0 else [(first + F * size, size - 1)]
        yield q / F, slice(first + F, first + F * size, F), beyond


def _interpolate(source: Tensor, out: Tensor, F: int, dim: int) -> None:
    size = source.shape[dim]
    low, high = source.narrow(dim, 0, size - 1), source.narrow(dim, 1, size - 1)
    for fraction, between, beyond in _gaps(size, F):
        pixels = _along(out, dim, between)
        if fraction == 1:
            pixels.copy_(high)
        else:
            torch.lerp(low, high, fraction, out=pixels)
        for pixel, cell in beyond:
            out.select(dim, pixel).copy_(source.select(dim, cell))


def _spread(grad: Tensor, total: Tensor, F: int, dim: int) -> None:
    size = total.shape[dim]
    low, high = total.narrow(dim, 0, size - 1), total.narrow(dim, 1, size - 1)
    for fraction, between, beyond in _gaps(size, F):
        pixels = _along(grad, dim, between)
        high.add_(pixels, alpha=fraction)
        if fraction < 1:
            low.add_(pixels, alpha=1 - fraction)
        for pixel, cell in beyond:
            total.select(dim, cell).add_(grad.select(dim, pixel))


def _along(x: Tensor, dim: int, positions: slice) -> Tensor:
    return x[(slice(None),) * dim + (positions,)]
