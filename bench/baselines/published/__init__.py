"""The published formulation of SeqFormer, on our modules' weights: the baseline of the benchmarks.

It computes what `SeqFormer` and `SetCriterion` compute, in the order of the original code and with
its intermediate tensors: frames one after another in deformable attention and in the box queries'
self-attention; every level sampled, stacked and only then weighted; frozen batch norm as a pass of
its own; the box heads twice; mask branch and dynamic mask head anew for every decoder layer and
frame; at inference the masks of all queries in all layers; in training matching and target masks
once per layer. What the original computes and never uses is left out. Letters as in `structures`;
M heads, P points, G generated mask-head weights.
"""

from .attention import sample_frame
from .masks import dynamic_masks
from .step import published_inference, published_training_losses

__all__ = [
    "dynamic_masks",
    "published_inference",
    "published_training_losses",
    "sample_frame",
]
