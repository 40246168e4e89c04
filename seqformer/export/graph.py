"""The network as one graph for export: frames and a state in, results and the next state out.

The state is what the frames so far add up to (`TemporalPool`), packed into one tensor. Zeros mean
that nothing was seen yet: with them, the graph computes the whole of a clip. Fed with the state
that it gave for the frames before, it computes a video of any length chunk by chunk, with the
results of the whole.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from ..model import SeqFormer, TemporalPool, inference_copy, mask_reference
from ..model.attention import MSDeformAttn
from ..model.swin import SwinTransformer
from .mask_head import Drawing, draw_masks
from .sampling import Sampling

FRAMES = 5
"""Of the example that is traced."""
INPUTS = ("images", "state")
OUTPUTS = (
    *("class_logits", "boxes", "queries", "mask_logits"),
    *("mask_params", "reference_points", "mask_features", "next_state"),
)


class ClipGraph(nn.Module):
    """A SeqFormer without padding, for one clip; inference only.

    Attributes:
        model: a copy with its batch norms folded.
        num_drawn: N, queries whose masks are drawn.
        draw: by which form.
    """

    def __init__(
        self,
        model: SeqFormer,
        sample: Sampling,
        num_drawn: int,
        draw: Drawing = draw_masks,
    ) -> None:
        super().__init__()
        self.draw = draw
        self.model = deepcopy(inference_copy(model)).requires_grad_(False)
        self.num_drawn = min(num_drawn, model.config.num_queries)
        for module in self.model.modules():
            if isinstance(module, MSDeformAttn):
                vars(module)["sample"] = sample  # goes before the method

    def empty_state(self) -> Tensor:
        """[D, 1, Q, C + 2] of zeros: no frame was seen."""
        config = self.model.config
        return torch.zeros(config.num_decoder_layers, 1, config.num_queries, config.hidden_dim + 2)

    def example(self) -> tuple[Tensor, Tensor]:
        """Inputs to trace with. No count of cells or windows is 1, which tracing would take for a
        constant, and whatever is padded at some size is padded here."""
        backbone = self.model.backbone
        reach = least_side(self.model) - 1
        if isinstance(backbone, SwinTransformer):
            reach = max(reach, backbone.strides[-1] * backbone.window)
        return torch.zeros(1, FRAMES, 3, reach + 1, 2 * reach + 1), self.empty_state()

    def forward(self, images: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """Results of the frames, given the state of those before.

        Args:
            images: [1, T, 3, H, W], normalised.
            state: [D, 1, Q, C + 2] from the chunk before, or zeros.

        Returns: in the order of `OUTPUTS`:
            class_logits [1, Q, K], of all frames so far, before the sigmoid.
            boxes [1, T, Q, 4], (cx, cy, w, h) in 0..1 of the frame.
            queries [N], those with the largest logits, best first.
            mask_logits [N, T, 2h, 2w], their masks in these frames; positive inside.
            mask_params [1, Q, G], reference_points [1, T, Q, 2] in 0..1 of the frame and
            mask_features [1, T, 8, h, w]: what masks of any query are drawn from.
            next_state [D, 1, Q, C + 2].
        """
        states, mask_features = self.model.box_stream(images)
        pool = TemporalPool.of(states.time_logits, states.sampled)
        pool = _unpacked(state, pool).merge(pool)
        instances = self.model.instance_stream(pool.pooled())
        class_logits, mask_params = self.model.instance_heads(instances, last_layer_only=True)
        T, (H, W) = images.shape[1], images.shape[-2:]
        references = mask_reference(states.references[-1]).expand(-1, T, -1, -1)
        queries = class_logits[-1, 0].amax(dim=-1).topk(self.num_drawn).indices
        in_pixels = references[0].index_select(1, queries).transpose(0, 1) * _size(images, W, H)
        mask_logits = self.draw(
            mask_features[0],
            mask_params[-1, 0].index_select(0, queries),
            in_pixels,
            self.model.mask_stride,
        )
        return (
            *(class_logits[-1], states.boxes[-1], queries, mask_logits),
            *(mask_params[-1], references, mask_features, _packed(pool)),
        )


def least_side(model: SeqFormer) -> int:
    """Least height and width of frames, in pixels: with it, the coarsest level has two cells."""
    strides, levels = model.backbone.strides, model.config.num_levels
    return strides[-1] * 2 ** (levels - len(strides[1:])) + 1


def _packed(pool: TemporalPool) -> Tensor:
    return torch.cat([pool.maximum, pool.denominator, pool.weighted], dim=-1)


def _unpacked(state: Tensor, first: TemporalPool) -> TemporalPool:
    """The pool in a state. That of no frames gets the maximum of the `first` ones, so that merging
    changes not a bit."""
    maximum, denominator, weighted = state.split([1, 1, state.shape[-1] - 2], dim=-1)
    return TemporalPool(torch.where(denominator > 0, maximum, first.maximum), denominator, weighted)


def _size(images: Tensor, *sides: int) -> Tensor:
    return torch.stack([torch.full((), side, dtype=images.dtype) for side in sides])
