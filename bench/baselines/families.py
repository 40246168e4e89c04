"""Model families of transformers with deformable attention: a configuration and inputs for each.

Weights are random and nothing is downloaded. `scale` chooses between a model that a test can
afford and one of the published size. A family that the installed version lacks is left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]


def _resnet(transformers: Any, small: bool) -> Any:
    sizes = (
        {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
        if small
        else {}
    )
    return transformers.ResNetConfig(**sizes, out_features=["stage2", "stage3", "stage4"])


def _deformable_detr(transformers: Any, small: bool) -> nn.Module:
    size = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "num_queries": 20}
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=_resnet(transformers, small),
        **({**size, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64} if small else {}),
    )
    return transformers.DeformableDetrForObjectDetection(config)


def _rt_detr(prefix: str) -> Callable[[Any, bool], nn.Module]:
    """RT-DETR, RT-DETRv2 and D-FINE share their configuration."""

    def build(transformers: Any, small: bool) -> nn.Module:
        size: dict[str, Any] = {}
        if small:
            backbone = {
                "embedding_size": 16,
                "hidden_sizes": [16, 32, 48, 64],
                "depths": [1, 1, 1, 1],
                "layer_type": "basic",
            }
            if prefix == "DFine":
                backbone = {
                    "stem_channels": [3, 16, 16],
                    "stage_in_channels": [16, 16, 32, 48],
                    "stage_mid_channels": [16, 16, 16, 16],
                    "stage_out_channels": [16, 32, 48, 64],
                    "stage_num_blocks": [1, 1, 1, 1],
                    "stage_numb_of_layers": [1, 1, 1, 1],
                    "stage_downsample": [False, True, True, True],
                    "stage_light_block": [False, False, True, True],
                    "stage_kernel_size": [3, 3, 5, 5],
                    "hidden_sizes": [16, 32, 48, 64],
                    "depths": [1, 1, 1, 1],
                    "embedding_size": 16,
                }
            kind = "HGNetV2Config" if prefix == "DFine" else "RTDetrResNetConfig"
            stages = ["stage2", "stage3", "stage4"]
            size = {
                "backbone_config": getattr(transformers, kind)(**backbone, out_features=stages),
                "encoder_in_channels": [32, 48, 64],
                "encoder_hidden_dim": 32,
                "d_model": 32,
                "decoder_in_channels": [32, 32, 32],
                "num_queries": 20,
                "decoder_layers": 2,
                "decoder_attention_heads": 4,
                "encoder_attention_heads": 4,
                "encoder_ffn_dim": 64,
                "decoder_ffn_dim": 64,
            }
            if prefix == "DFine":
                size["decoder_n_points"] = [3, 6, 3]  # levels of unequal numbers of points
        config = getattr(transformers, f"{prefix}Config")(**size)
        return getattr(transformers, f"{prefix}ForObjectDetection")(config)

    return build


def _rf_detr(transformers: Any, small: bool) -> nn.Module:
    size: dict[str, Any] = {}
    if small:
        size = {
            "backbone_config": {
                "model_type": "rf_detr_dinov2",
                "hidden_size": 32,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "image_size": 128,
                "patch_size": 16,
                "num_windows": 2,
                "out_features": ["stage2", "stage4"],
            },
            "d_model": 32,
            "num_queries": 20,
            "decoder_layers": 2,
            "decoder_self_attention_heads": 2,
            "decoder_cross_attention_heads": 4,
            "group_detr": 1,
        }
    return transformers.RfDetrForObjectDetection(transformers.RfDetrConfig(**size))


def _swin(transformers: Any, small: bool) -> Any:
    size = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]} if small else {}
    return transformers.SwinConfig(
        **size, image_size=64 if small else 224, window_size=4 if small else 7
    )


def _grounding_dino(transformers: Any, small: bool) -> nn.Module:
    backbone = _swin(transformers, small)
    backbone._out_features = ["stage2", "stage3", "stage4"]
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
    size: dict[str, Any] = {}
    if small:
        size = {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "num_queries": 20,
            "text_config": {**text, "intermediate_size": 64, "model_type": "bert"},
        }
    out = {"backbone_config": transformers.SwinConfig(**{**backbone.to_dict(), **_STAGES})}
    config = transformers.GroundingDinoConfig(
        **out, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, **size
    )
    return transformers.GroundingDinoForObjectDetection(config)


_STAGES = {"out_features": ["stage2", "stage3", "stage4"], "out_indices": None}


_SMALL_MASKS = {
    "hidden_dim": 32,
    "encoder_feedforward_dim": 64,
    "dim_feedforward": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "num_attention_heads": 4,
    "num_queries": 20,
}
"""Of Mask2Former and OneFormer."""


def _mask2former(transformers: Any, small: bool) -> nn.Module:
    size = _SMALL_MASKS | {"feature_size": 32, "mask_feature_size": 32} if small else {}
    config = transformers.Mask2FormerConfig(**_four_stages(transformers, small), **size)
    return transformers.Mask2FormerForUniversalSegmentation(config)


def _oneformer(transformers: Any, small: bool) -> nn.Module:
    more = {"conv_dim": 32, "mask_dim": 32, "query_dec_layers": 1}
    size = _SMALL_MASKS | more if small else {}
    config = transformers.OneFormerConfig(**_four_stages(transformers, small), **size)
    return transformers.OneFormerForUniversalSegmentation(config)


def _four_stages(transformers: Any, small: bool) -> dict[str, Any]:
    out = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "out_indices": None}
    backbone = _swin(transformers, small).to_dict() | out
    return {"backbone_config": transformers.SwinConfig(**backbone)}


FAMILIES: dict[str, Callable[[Any, bool], nn.Module]] = {
    "DeformableDetr": _deformable_detr,
    "RTDetr": _rt_detr("RTDetr"),
    "RTDetrV2": _rt_detr("RTDetrV2"),
    "DFine": _rt_detr("DFine"),
    "RfDetr": _rf_detr,
    "GroundingDino": _grounding_dino,
    "Mask2Former": _mask2former,
    "OneFormer": _oneformer,
}
"""By the prefix of the library's classes: builds a model."""


def available() -> list[str]:
    """The families that the installed transformers has."""
    transformers = importlib.import_module("transformers")
    return [name for name in FAMILIES if hasattr(transformers, f"{name}Config")]


def build(name: str, small: bool, seed: int = 0) -> nn.Module:
    """A model with random weights, in eval mode."""
    torch.manual_seed(seed)
    model = FAMILIES[name](importlib.import_module("transformers"), small).eval()
    spread_out(model, seed)
    return model


def spread_out(model: nn.Module, seed: int) -> None:
    """Weights that keep signals alive. Fresh models fade to nothing within a few layers, and look
    at the same places with the same weight everywhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * noise)


def inputs(name: str, height: int, width: int, images: int = 1, seed: int = 0) -> Inputs:
    """What `forward` takes: random images of one size, and a text or a task where one is needed."""
    generator = torch.Generator().manual_seed(seed)
    given: Inputs = {"pixel_values": torch.randn(images, 3, height, width, generator=generator)}
    if name == "GroundingDino":
        given["input_ids"] = torch.tensor([[2, 5, 6, 3]]).expand(images, -1).contiguous()
    if name == "OneFormer":  # token numbers as the values of a vector; small ones, to stay alive
        task = torch.zeros(77, dtype=torch.int64)
        task[:5] = torch.tensor([2, 5, 6, 1, 3])
        given["task_inputs"] = task.expand(images, -1).contiguous()
    return given


def floats(output: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of floats in a model's output, with its place."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield path, output
    elif isinstance(output, dict):
        for key, part in output.items():
            yield from floats(part, f"{path}.{key}")
    elif isinstance(output, list | tuple):
        for i, part in enumerate(output):
            yield from floats(part, f"{path}[{i}]")
