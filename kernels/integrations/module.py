"""`MSDeformAttn` of the Deformable-DETR descendants, with our fused operator underneath.

The parameters have the names of the published module, so that checkpoints load. Offsets and
logits go straight from the linear layers into the operator: softmax and placing are part of it.
"""

from __future__ import annotations

import inspect
import math
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ..deformable_attention import SpatialShapes, ms_deform_attn_fused
from .patches import Patch

NAME = "MSDeformAttn"
_LAYERS = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
_COUNTS = ("n_heads", "n_levels", "n_points")


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention between queries and the tokens of L levels."""

    def __init__(
        self, d_model: int = 256, n_levels: int = 4, n_heads: int = 8, n_points: int = 4
    ) -> None:
        """d_model is C = M*D, for n_heads = M heads, n_levels = L and n_points = P.

        Raises: ValueError if M does not divide C.
        """
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"n_heads {n_heads} must divide d_model {d_model}")
        self.im2col_step = 64  # read by some repositories; nothing here depends on it
        self.d_model = d_model
        self.n_levels = n_levels
        self.n_heads = n_heads
        self.n_points = n_points
        self.sampling_offsets = nn.Linear(d_model, n_heads * n_levels * n_points * 2)
        self.attention_weights = nn.Linear(d_model, n_heads * n_levels * n_points)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """As published: heads look in M directions, point i at i + 1 cells' distance."""
        angles = torch.arange(self.n_heads, dtype=torch.float32) * (2 * math.pi / self.n_heads)
        direction = torch.stack([angles.cos(), angles.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.n_points + 1, dtype=torch.float32)
        grid = direction[:, None, None, :] * steps[None, None, :, None]  # [M, 1, P, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(grid.expand(-1, self.n_levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        input_flatten: Tensor,
        input_spatial_shapes: SpatialShapes,
        input_level_start_index: Tensor | None,
        input_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: [B, Q, C].
            reference_points: [B, Q, L, 2] points or [B, Q, L, 4] boxes (cx, cy, w, h), shares of
                the whole level.
            input_flatten: [B, S, C], the tokens.
            input_spatial_shapes: L pairs (height, width). Pairs on the host save a wait for a GPU.
            input_level_start_index: not read; levels follow one another.
            input_padding_mask: [B, S], True where a token is padding.

        Returns: [B, Q, C].
        Raises: ValueError when shapes disagree.
        """
        return _fused_forward(
            self,
            query,
            reference_points,
            input_flatten,
            input_spatial_shapes,
            input_level_start_index,
            input_padding_mask,
        )


def _fused_forward(
    self: Any,
    query: Tensor,
    reference_points: Tensor,
    input_flatten: Tensor,
    input_spatial_shapes: SpatialShapes,
    input_level_start_index: Tensor | None,
    input_padding_mask: Tensor | None = None,
) -> Tensor:
    """`MSDeformAttn.forward`, for every module with its parts."""
    heads, samples = self.n_heads, [self.n_heads, self.n_levels, self.n_points]
    value = self.value_proj(input_flatten)
    if input_padding_mask is not None:
        value = value.masked_fill(input_padding_mask[..., None], 0.0)
    output = ms_deform_attn_fused(
        value.unflatten(-1, (heads, -1)),
        input_spatial_shapes,
        self.sampling_offsets(query).unflatten(-1, [*samples, 2]),
        self.attention_weights(query).unflatten(-1, samples),
        reference_points,
    )
    return self.output_proj(output)


def use_fused(model: nn.Module) -> Patch:
    """Let every `MSDeformAttn` of a model run on the fused operator, built extension or not.

    Modules are known by their class's name, their parts and the arguments of `forward`; weights
    stay where they are. Compared with `use_as_extension`, locations and softmaxed weights are never
    stored.

    Returns: the patch, to undo.
    Raises: ValueError if there is none, or one of another layout.
    """
    modules = [m for m in model.modules() if type(m).__name__ == NAME]
    if not modules:
        raise ValueError(f"{type(model).__name__} has no module called {NAME}, nothing to replace")
    for module in modules:
        missing = [name for name in (*_LAYERS, *_COUNTS) if not hasattr(module, name)]
        given = list(inspect.signature(module.forward).parameters)
        known = list(inspect.signature(MSDeformAttn().forward).parameters)
        if missing or given != known:
            raise ValueError(
                f"{NAME} of {type(module).__module__} has another layout: "
                + (f"no {', '.join(missing)}" if missing else f"forward takes {given}, not {known}")
            )
    patch = Patch()
    for module in modules:
        patch.set(module, "forward", MethodType(_fused_forward, module))
    return patch
