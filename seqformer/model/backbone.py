"""Backbones by name."""

from __future__ import annotations

from typing import Any

from .resnet import ResNet, ResNetMini
from .swin import SwinTransformer

_RESNETS: dict[str, dict[str, Any]] = {
    "resnet50": {"depths": (3, 4, 6, 3)},
    "resnet101": {"depths": (3, 4, 23, 3)},
    "resnext101_32x8d": {"depths": (3, 4, 23, 3), "groups": 32, "base_width": 8},
}
_SWINS: dict[str, dict[str, Any]] = {
    "swin_t": {"channels": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7},
    "swin_s": {"channels": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "window": 7},
    "swin_b": {"channels": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "window": 7},
    "swin_l": {"channels": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "window": 12},
}

BACKBONES = (*_RESNETS, *_SWINS, "resnet_mini")


def build_backbone(name: str, drop_path: float = 0.0) -> ResNet | SwinTransformer | ResNetMini:
    """A feature extractor [n, 3, H, W] -> four maps, with `.channels` and `.strides` of the maps.

    Raises: ValueError on an unknown name.
    """
    if name in _RESNETS:
        return ResNet(**_RESNETS[name])
    if name in _SWINS:
        return SwinTransformer(**_SWINS[name], drop_path=drop_path)
    if name == "resnet_mini":
        return ResNetMini()
    raise ValueError(f"backbone {name!r} is unknown; choose one of {', '.join(BACKBONES)}")
