"""Weights of the rewrite on detectron2 (VNext) under the published names.

It wraps the published model once more (`detr.`) and builds the backbone as detectron2 does: ResNets
as stem, res2 to res5, with a norm inside every convolution. Everything else has its published name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from ..structures import ClassMap
from .convert import with_box_head_aliases

_WRAPPER = "detr."
_BACKBONE = "detr.backbone.0.backbone."
_PUBLISHED_BACKBONE = "detr.backbone.0.body."
_RESNET: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"^res(\d)\.(\d+)\.conv(\d)\.norm\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.bn{m[3]}."),
    (r"^res(\d)\.(\d+)\.shortcut\.norm\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.1."),
    (r"^res(\d)\.(\d+)\.shortcut\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.0."),
    (r"^res(\d)\.", lambda m: f"layer{int(m[1]) - 1}."),
]
_NOT_IN_COCO = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_IDS = tuple(i for i in range(1, 91) if i not in _NOT_IN_COCO)


def is_detectron2(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has the rewrite's names."""
    return any(key.startswith((_BACKBONE, _WRAPPER + _BACKBONE)) for key in state)


def from_detectron2_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rewrite's state dict -> published names; any other is given back."""
    if not is_detectron2(state):
        return state
    if any(key.startswith(_WRAPPER + _BACKBONE) for key in state):
        state = {key.removeprefix(_WRAPPER): value for key, value in state.items()}
    named = {}
    for key, value in state.items():
        if key.startswith(_BACKBONE):
            key = _PUBLISHED_BACKBONE + _backbone_name(key.removeprefix(_BACKBONE))
        named[key] = value
    has_aliases = any(key.startswith("detr.bbox_embed.") for key in named)
    return named if has_aliases else with_box_head_aliases(named)


def backbone_from_detectron2_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet of detectron2 (`stem.conv1.weight`, ...) -> torchvision's names; any other as it
    is."""
    if "stem.conv1.weight" not in state:
        return state
    return {_backbone_name(key): value for key, value in state.items()}


def detectron2_classes(num_classes: int | None) -> ClassMap | None:
    """What the outputs of such weights stand for: the n-th category of the data set.

    Those of YouTube-VIS and OVIS are numbered from 1 without a gap, so an output's category id is
    its index plus one. With 80 outputs the ids are COCO's, which have gaps.
    """
    if num_classes is None:
        return None
    ids = _COCO_IDS if num_classes == len(_COCO_IDS) else tuple(range(1, num_classes + 1))
    return ClassMap(ids, ("",) * num_classes)


def _backbone_name(name: str) -> str:
    """A name inside detectron2's backbone -> torchvision's; those of Swin stay."""
    for pattern, replacement in _RESNET:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name
