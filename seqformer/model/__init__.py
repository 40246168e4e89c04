"""The network and its weights; knows nothing of losses, data or training."""

from .checkpoint import (
    Checkpoint,
    build_model,
    build_model_from_config,
    load_backbone_weights,
    load_checkpoint,
    load_weights,
    model_from_checkpoint,
    save_safetensors,
)
from .convert import published_name, to_published
from .hub import from_pretrained, push_to_hub, save_pretrained
from .imagenet_files import download_backbone_weights, find_backbone_weights
from .inference_copy import inference_copy
from .int8_ranges import Int8Ranges
from .masks import render_masks
from .seqformer import SeqFormer, mask_reference
from .temporal import TemporalPool

__all__ = [
    "Checkpoint",
    "Int8Ranges",
    "SeqFormer",
    "TemporalPool",
    "build_model",
    "build_model_from_config",
    "download_backbone_weights",
    "find_backbone_weights",
    "from_pretrained",
    "inference_copy",
    "load_backbone_weights",
    "load_checkpoint",
    "load_weights",
    "mask_reference",
    "model_from_checkpoint",
    "published_name",
    "push_to_hub",
    "render_masks",
    "save_pretrained",
    "save_safetensors",
    "to_published",
]
