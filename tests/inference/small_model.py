"""A tiny network with lively weights, and a film for it, shared by the tests of inference."""

from __future__ import annotations

import numpy as np
import torch

from seqformer.model import SeqFormer, build_model

SIZES = {
    "num_classes": 3,
    "hidden_dim": 32,
    "num_heads": 4,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "num_queries": 7,
    "ffn_dim": 64,
    "mask_dim": 16,
}


def small_model(seed: int = 0, **changes: int) -> SeqFormer:
    """Boxes move from layer to layer, frames differ in weight, masks have some pixels."""
    torch.manual_seed(seed)
    model = build_model("resnet_mini", **SIZES | changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.5 / parameter.shape[1] ** 0.5)
            parameter.add_(0.02 * torch.randn_like(parameter))
        for layer in model.decoder.layers:
            layer.time_attention_weights.weight.mul_(4)
        model.controller.layers[-1].bias.normal_(std=0.3)
        for head in model.class_embed:
            head.bias.zero_()  # scores around a half
    return model.eval()


def film(num_frames: int, height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """[T, height, width, 3] uint8: bright discs that cross a pattern."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pattern = rng.integers(0, 90, (height, width, 3))
    start, speed = rng.uniform(0, 1, (3, 2)), rng.uniform(0.01, 0.06, (3, 2))
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for t in range(num_frames):
        frames[t] = np.roll(pattern, t, axis=1)
        for number, (px, py) in enumerate((start + t * speed) % 1):
            inside = (x - px * width) ** 2 + (y - py * height) ** 2 < (height / 6) ** 2
            frames[t][inside] = np.eye(3)[number] * 255
    return frames
