"""Swin Transformer feature extractor (Liu et al. 2021), parameter names of the official files."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .blocks import cast_like


def _relative_position_index(window: int) -> Tensor:
    """[window^2, window^2] rows of the bias table for each pair of positions in a window."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    row_offset = rows[:, None] - rows[None] + window - 1
    column_offset = columns[:, None] - columns[None] + window - 1
    return row_offset * (2 * window - 1) + column_offset


class DropPath(nn.Module):
    """Drop the residual branch of whole samples (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[n, ...]: in training some of the n become 0, the others larger."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty(x.shape[0], *([1] * (x.dim() - 1))).bernoulli_(keep)
        return x * mask / keep


def _parts(length: int, size: int) -> int:
    """Parts of `size` that cover a `length` of at least 1.

    Where sizes are symbols (export, compilation), this form of the division folds when it is
    nested, and `size` times it is a multiple of `size` to see. All sizes of this file come from it.
    """
    return (length - 1) // size + 1


def _padded(x: Tensor, rows: int, columns: int) -> Tensor:
    """[n, h, w, C] -> [n, rows, columns, C] with zeros below and to the right."""
    return F.pad(x, (0, 0, 0, columns - x.shape[2], 0, rows - x.shape[1]))


def _windows(x: Tensor, rows: int, columns: int, size: int) -> Tensor:
    """[n, rows * size, columns * size, C] -> [n, rows * columns, size^2, C], row by row."""
    lengths = {"h": rows, "w": columns, "i": size, "j": size}
    return rearrange(x, "n (h i) (w j) c -> n (h w) (i j) c", **lengths)


def _joined(x: Tensor, rows: int, columns: int, size: int) -> Tensor:
    """The inverse of `_windows`."""
    lengths = {"h": rows, "w": columns, "i": size, "j": size}
    return rearrange(x, "n (h w) (i j) c -> n (h i) (w j) c", **lengths)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_position_index(window))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, shift_mask: Tensor | None) -> Tensor:
        """x: [n, windows, p, C] with p = window^2; shift_mask: [windows, p, p] added, or None."""
        n, windows = x.shape[:2]
        q, k, v = rearrange(self.qkv(x), "n w p (qkv m d) -> qkv (n w) m p d", qkv=3, m=self.heads)
        index = self.relative_position_index
        bias = self.relative_position_bias_table[index.flatten()]
        bias = rearrange(bias, "(p q) m -> 1 m p q", p=index.shape[0])
        if shift_mask is not None:
            bias = bias + shift_mask[:, None]  # [windows, M, p, p]
            bias = bias.expand(n, *bias.shape).flatten(0, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(rearrange(out, "(n w) m p d -> n w p (m d)", n=n, w=windows))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.fc2(F.gelu(self.fc1(cast_like(self.fc1, x))))


class SwinBlock(nn.Module):
    """Window attention (shifted on odd blocks) and MLP, pre-norm."""

    def __init__(
        self, channels: int, heads: int, window: int, shift: int, drop_path: float
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, window, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor, shift_mask: Tensor) -> Tensor:
        """x: [n, h, w, C]; shift_mask: [windows, p, p] of the padded map, used when shifted."""
        _, h, w, _ = x.shape
        size, shift = self.window, self.shift
        grid = _parts(h, size), _parts(w, size), size
        # parity: padding after norm1, so padded cells are zero and take part in the attention.
        y = cast_like(self.attn.qkv, self.norm1(x))
        y = _padded(y, grid[0] * size, grid[1] * size)
        if shift:
            y = y.roll((-shift, -shift), dims=(1, 2))
        y = _joined(self.attn(_windows(y, *grid), shift_mask if shift else None), *grid)
        if shift:
            y = y.roll((shift, shift), dims=(1, 2))
        x = x + self.drop_path(y.narrow(1, 0, h).narrow(2, 0, w))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def _shift_mask(h: int, w: int, window: int, shift: int, like: Tensor) -> Tensor:
    """[windows, p, p]: 0 inside a region of the rolled map, -100 between regions."""
    rows, columns = _parts(h, window), _parts(w, window)

    def regions(n: int) -> Tensor:
        cells = torch.arange(n, device=like.device)
        return (cells >= n - window).long() + (cells >= n - shift).long()

    label = 3 * regions(rows * window)[:, None] + regions(columns * window)[None]
    label = _windows(label[None, ..., None], rows, columns, window)[0, ..., 0]
    return (label[:, :, None] != label[:, None, :]).to(like.dtype) * -100.0


class PatchMerging(nn.Module):
    """Two by two cells become one with twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """[n, h, w, C] -> [n, ceil(h/2), ceil(w/2), 2C]; odd sizes are zero padded."""
        rows, columns = _parts(x.shape[1], 2), _parts(x.shape[2], 2)
        x = _padded(x, 2 * rows, 2 * columns)
        lengths = {"h": rows, "w": columns, "i": 2, "j": 2}
        # parity: of the four cells, the one below comes before the one to the right.
        x = rearrange(x, "n (h i) (w j) c -> n h w (j i c)", **lengths)
        return self.reduction(cast_like(self.reduction, self.norm(x)))


class SwinStage(nn.Module):
    """Blocks at one resolution, then merging (absent in the last stage)."""

    def __init__(
        self, channels: int, heads: int, window: int, drop_paths: list[float], merge: bool
    ) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, window, window // 2 if i % 2 else 0, rate)
            for i, rate in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(channels) if merge else None

    def forward(self, x: Tensor) -> Tensor:
        """[n, h, w, C] -> the same, before merging."""
        mask = _shift_mask(x.shape[1], x.shape[2], self.window, self.window // 2, x)
        for block in self.blocks:
            assert isinstance(block, SwinBlock)
            x = block(cast_like(block.norm1, x), mask)
        return x


class PatchEmbed(nn.Module):
    """4x4 patches to channels; right and bottom are padded to multiples of 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, 4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, H, W] -> [n, ceil(H/4), ceil(W/4), C]."""
        rows, columns = (_parts(side, 4) for side in x.shape[2:])
        x = F.pad(x, (0, 4 * columns - x.shape[3], 0, 4 * rows - x.shape[2]))
        return self.norm(cast_like(self.norm, rearrange(self.proj(x), "n c h w -> n h w c")))


class SwinTransformer(nn.Module):
    """Four stages at strides 4, 8, 16, 32, each with its own output norm. All of it is trained but
    the first norm, whose map the model does not use.

    Args:
        channels: width of the first stage; doubles per stage.
        depths: blocks per stage.
        heads: attention heads per stage.
        window: window side in cells.
        drop_path: largest stochastic depth rate, linear over the blocks.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        channels: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        window: int,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels = tuple(channels * 2**i for i in range(len(depths)))
        self.window = window
        self.patch_embed = PatchEmbed(channels)
        total = max(sum(depths) - 1, 1)
        rates = [drop_path * i / total for i in range(sum(depths))]
        self.layers = nn.ModuleList(
            SwinStage(
                self.channels[i],
                heads[i],
                window,
                rates[sum(depths[:i]) : sum(depths[: i + 1])],
                merge=i + 1 < len(depths),
            )
            for i in range(len(depths))
        )
        for i, width in enumerate(self.channels):
            self.add_module(f"norm{i}", nn.LayerNorm(width))
        # DDP waits for the gradient of every parameter that is to have one.
        self.get_submodule("norm0").requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[n, 3, H, W] -> four maps [n, C_i, h_i, w_i] at strides 4, 8, 16, 32."""
        dtype = x.dtype
        x = self.patch_embed(x)
        maps = []
        for i, stage in enumerate(self.layers):
            assert isinstance(stage, SwinStage)
            x = stage(x)
            features = getattr(self, f"norm{i}")(x).to(dtype)
            maps.append(rearrange(features, "n h w c -> n c h w"))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return maps
