"""Our parameter names <-> the published ones, and what a published state dict says about itself.

Every checkpoint on disk, ours included, uses the published names; every key is accounted for.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from ..config import BackboneName, ModelConfig

_BOX_ALIAS = ("detr.transformer.decoder.bbox_embed.", "detr.bbox_embed.")

_RENAMES = [
    (r"^backbone\.", "detr.backbone.0.body."),
    (r"^(level_embed$|reference_points\.|encoder\.|decoder\.)", r"detr.transformer.\1"),
    (r"^(class_embed|query_embed|input_proj)\.", r"detr.\1."),
    (r"^mask_branch\.", "mask_head."),
    (r"(encoder\.layers\.\d+)\.ffn\.norm\.", r"\1.norm2."),
    (r"(decoder\.layers\.\d+)\.ffn\.norm\.", r"\1.norm3."),
    (r"(decoder\.layers\.\d+)\.ffn_box\.norm\.", r"\1.norm3_box."),
    (r"(coder\.layers\.\d+)\.ffn\.(linear\d)\.", r"\1.\2."),
    (r"(decoder\.layers\.\d+)\.ffn_box\.(linear\d)\.", r"\1.\2_box."),
]


def published_name(name: str) -> str:
    """Our parameter or buffer name -> the published one (box heads: under the decoder)."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def to_published(model: nn.Module) -> dict[str, Tensor]:
    """The model's state under the published names, in the published order, aliases included."""
    state = {published_name(k): v.detach() for k, v in model.state_dict().items()}
    return with_box_head_aliases(state)


def from_own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `SeqFormer` itself -> published names; any other is given back."""
    if "query_embed.weight" not in state or any(key.startswith("detr.") for key in state):
        return state
    return with_box_head_aliases({published_name(k): v.detach() for k, v in state.items()})


def with_box_head_aliases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published names, each box head once -> each under both of its published names."""
    ordered = {}
    for key, value in state.items():
        ordered[key] = value
        if key.startswith("detr.class_embed.") and key == _last_class_key(state):
            ordered |= {
                k.replace(*_BOX_ALIAS): v for k, v in state.items() if k.startswith(_BOX_ALIAS[0])
            }
    return ordered


def _last_class_key(state: dict[str, Tensor]) -> str:
    return [k for k in state if k.startswith("detr.class_embed.")][-1]


def identify_config(state: dict[str, Tensor]) -> ModelConfig | None:
    """The model that a published state dict belongs to, read from its keys and shapes.

    Heads and points cannot be told from shapes: the published 8 heads (and 4 points) are assumed
    where they fit; callers must say so. None when the state is no SeqFormer at all.

    Raises: ValueError, IndexError or ZeroDivisionError for shapes that no such model has.
    """
    backbone = identify_backbone(state)
    query = state.get("detr.query_embed.weight")
    level = state.get("detr.transformer.level_embed")
    ffn = state.get("detr.transformer.encoder.layers.0.linear1.weight")
    lay1 = state.get("mask_head.lay1.weight")
    offsets = state.get("detr.transformer.encoder.layers.0.self_attn.sampling_offsets.bias")
    if backbone is None or query is None or level is None or ffn is None:
        return None
    if lay1 is None or offsets is None:
        return None
    samples = offsets.shape[0] // (2 * level.shape[0])  # M * P
    heads = 8 if samples % 8 == 0 else 1
    config = ModelConfig(
        backbone=cast(BackboneName, backbone),
        hidden_dim=query.shape[1] // 2,
        num_queries=query.shape[0],
        num_levels=level.shape[0],
        num_heads=heads,
        num_points=samples // heads,
        ffn_dim=ffn.shape[0],
        mask_dim=lay1.shape[0],
        num_encoder_layers=_count(state, r"detr\.transformer\.encoder\.layers\.(\d+)\."),
        num_decoder_layers=_count(state, r"detr\.transformer\.decoder\.layers\.(\d+)\."),
    )
    classes = num_classes(state)
    return config if classes is None else replace(config, num_classes=classes)


def num_classes(state: dict[str, Tensor]) -> int | None:
    """K of a published state dict; None when its class heads were dropped."""
    bias = state.get("detr.class_embed.0.bias")
    return None if bias is None else int(bias.shape[0])


def identify_backbone(
    state: dict[str, Tensor], prefix: str = "detr.backbone.0.body."
) -> str | None:
    """Name of the backbone whose weights stand under `prefix`, or None."""

    def shape(key: str) -> tuple[int, ...] | None:
        tensor = state.get(prefix + key)
        return None if tensor is None else tuple(tensor.shape)

    if shape("stem.weight") is not None:
        return "resnet_mini"
    patch = shape("patch_embed.proj.weight")
    if patch is not None:
        deep = shape("layers.2.blocks.17.norm1.weight") is not None
        widths = {96: "swin_s" if deep else "swin_t", 128: "swin_b", 192: "swin_l"}
        return widths.get(patch[0])
    grouped = shape("layer1.0.conv2.weight")
    if grouped is None:
        return None
    deep = shape("layer3.22.conv1.weight") is not None
    if deep:
        return "resnext101_32x8d" if grouped == (256, 8, 3, 3) else "resnet101"
    return "resnet50" if shape("layer3.5.conv1.weight") is not None else None


def official_swin_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of timm in a Swin -> the official ones; any other state dict is given back.

    timm counts the merging of patches to the stage after it, the official file to the one before.
    """
    if "layers.3.downsample.reduction.weight" not in state:
        return state
    merging = re.compile(r"^layers\.(\d)\.downsample\.")
    return {
        merging.sub(lambda match: f"layers.{int(match[1]) - 1}.downsample.", name): tensor
        for name, tensor in state.items()
    }


def _count(state: dict[str, Tensor], pattern: str) -> int:
    return len({m.group(1) for k in state if (m := re.match(pattern, k))})
