"""The settings of the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from seqformer.config.fields import MAY_CHANGE

BackboneName = Literal[
    "resnet50",
    "resnet101",
    "resnext101_32x8d",
    "swin_t",
    "swin_s",
    "swin_b",
    "swin_l",
    "resnet_mini",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network. Defaults are the published model."""

    backbone: BackboneName = "resnet50"
    """Feature extractor. resnet_mini is the small GroupNorm network of the demo."""
    num_classes: int = field(default=42, metadata=MAY_CHANGE)
    """K, classifier outputs. In training the class map of the data decides it."""
    hidden_dim: int = 256
    """C, width of encoder and decoder."""
    num_heads: int = 8
    """M, attention heads."""
    num_levels: int = 4
    """L, feature levels: the backbone's last three stages and strided convolutions after them."""
    num_points: int = 4
    """P, sampling points per head and level."""
    num_encoder_layers: int = 6
    """Deformable encoder layers, run on each frame alone."""
    num_decoder_layers: int = 6
    """Decoder layers; each has its own class and box head."""
    ffn_dim: int = 1024
    """Hidden width of the feed-forward blocks."""
    num_queries: int = 300
    """Q, instance queries per clip."""
    mask_dim: int = 64
    """Channels of the mask branch before its last convolution."""
    dropout: float = 0.0
    """Dropout probability in encoder and decoder."""
    drop_path: float = 0.0
    """Largest stochastic depth rate of Swin, linear over its blocks (published: t/s 0.2, l 0.3)."""

    def __post_init__(self) -> None:
        for name in ("hidden_dim", "num_heads", "num_points", "ffn_dim", "mask_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim {self.hidden_dim} must be a multiple of num_heads {self.num_heads}"
            )
        if self.hidden_dim % 32:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be a multiple of 32 (GroupNorm)")
        if self.num_levels < 3:
            raise ValueError(f"num_levels is {self.num_levels}; the mask branch needs at least 3")
        for name in ("num_classes", "num_queries", "num_encoder_layers", "num_decoder_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("dropout", "drop_path"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
