"""Linear layers and the feed-forward block in plain PyTorch, as the published code calls them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from seqformer.model.blocks import FeedForward


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer without what a subclass makes of it."""
    return F.linear(x, layer.weight, layer.bias)


def feed_forward(block: FeedForward, x: Tensor) -> Tensor:
    """Linear, ReLU, linear; residual and norm."""
    hidden = linear(block.linear1, x).relu()
    return block.norm(x + linear(block.linear2, hidden))
