"""The layer of transformers, in the form that the registry package `kernels` asks for.

That package puts `forward` on modules of another class. So the layer has no constructor, no state
and no member but `forward` and the two flags.
"""

from __future__ import annotations

import torch

from ..deformable_attention import ms_deform_attn

__all__ = ["MultiScaleDeformableAttention"]


class MultiScaleDeformableAttention(torch.nn.Module):
    """Multi-scale deformable attention, for `kernelize`."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self,
        value: torch.Tensor,
        value_spatial_shapes: torch.Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: torch.Tensor,
        sampling_locations: torch.Tensor,
        attention_weights: torch.Tensor,
        im2col_step: int,
    ) -> torch.Tensor:
        """[B, Q, M*D], from value [B, S, M, D], sampling_locations [B, Q, M, L, P, 2] and
        attention_weights [B, Q, M, L, P].

        `value_spatial_shapes_list` holds (height, width) of the L levels on the host, so that
        nobody waits for a GPU; the tensors of shapes and starts say the same and are not read, and
        the kernels need no `im2col_step`. Raises: ValueError when shapes disagree.
        """
        return ms_deform_attn(
            value, value_spatial_shapes_list, sampling_locations, attention_weights
        )
