"""Deterministic weights for the parity tests: each tensor a function of (seed, key, shape) only.

Every tensor has a generator of its own, PCG64 seeded by crc32("seed:key"); its standard normals z
are scaled by the first rule below that fits the key. Box heads under the decoder are the same
tensors as those under `detr.bbox_embed`.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parents[1] / "golden"


def read_manifest(name: str) -> list[tuple[str, tuple[int, ...]]]:
    """[(key, shape)] of a published state dict, in order; r50, r101, x101, swin_l or swin_t."""
    with gzip.open(DATA / "manifests" / f"{name}.json.gz", "rt") as file:
        return [(key, tuple(shape)) for key, shape, _ in json.load(file)]


def rule_state_dict(name: str, seed: int) -> dict[str, torch.Tensor]:
    """The published state dict of a manifest, filled by rule."""
    return {k: torch.from_numpy(rule_tensor(k, s, seed)) for k, s in read_manifest(name)}


def checksum(state: dict[str, torch.Tensor]) -> int:
    """crc32 chained over the bytes of all tensors in order."""
    crc = 0
    for tensor in state.values():
        crc = zlib.crc32(np.ascontiguousarray(tensor.numpy()).tobytes(), crc)
    return crc


def rule_tensor(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One tensor of the rule, float32 (int64 for index buffers)."""
    key = key.replace("detr.transformer.decoder.bbox_embed.", "detr.bbox_embed.")
    if key.endswith("relative_position_index"):
        return _window_pairs(round(shape[0] ** 0.5))
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{key}".encode())))
    z = generator.standard_normal(tuple(shape))
    return _scaled(key, z).astype(np.float32)


def _window_pairs(window: int) -> np.ndarray:
    row, column = np.divmod(np.arange(window**2), window)
    rows = row[:, None] - row[None] + window - 1
    columns = column[:, None] - column[None] + window - 1
    return (rows * (2 * window - 1) + columns).astype(np.int64)


def _scaled(key: str, z: np.ndarray) -> np.ndarray:
    leaf = key.rsplit(".", 1)[-1]
    fan_in = int(np.prod(z.shape[1:])) if z.ndim > 1 else 1
    if leaf == "relative_position_bias_table":
        return 0.3 * z
    if leaf == "level_embed":
        return 0.5 * z
    if key.endswith("query_embed.weight"):
        return z
    if re.search(r"backbone\.0\.body\.(.*\.)?(bn[123]|downsample\.1)\.\w+$", key):
        if leaf == "running_var":
            return np.exp(0.2 * z)
        if leaf == "weight":
            return (0.25 if ".bn3." in key else 1.0) * (1 + 0.1 * z)
        return 0.1 * z
    if re.search(r"(norm\w*|input_proj\.\d\.1)\.(weight|bias)$", key):
        return 1 + 0.1 * z if leaf == "weight" else 0.05 * z
    if key.endswith("sampling_offsets.weight"):
        return 0.5 * z / fan_in**0.5
    if key.endswith("sampling_offsets.bias"):
        return _offset_grid() + 0.1 * z
    if re.search(r"class_embed\.\d\.bias$", key):
        return -2 + 0.1 * z
    if re.search(r"bbox_embed\.\d\.layers\.2\.", key):
        out = 0.5 * z / fan_in**0.5 if leaf == "weight" else 0.1 * z
        if leaf == "bias" and "bbox_embed.0." in key:
            out[2:] -= 1
        return out
    if key.startswith("controller.layers.2."):
        if leaf == "bias":
            return 0.1 * z
        row = np.arange(z.shape[0])
        size = np.where((row < 80) & (row % 10 < 2), 0.01, 1.0)
        return size[:, None] * (z - z.mean(1, keepdims=True)) / fan_in**0.5
    if leaf in ("bias", "in_proj_bias"):
        return 0.05 * z
    if z.ndim == 4:
        return (2 / fan_in) ** 0.5 * (z - z.mean(axis=(1, 2, 3), keepdims=True))
    return _linear_gain(key) * (z - z.mean(1, keepdims=True)) / fan_in**0.5


def _offset_grid() -> np.ndarray:
    angle = 2 * np.pi * np.arange(8) / 8
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    direction /= np.abs(direction).max(-1, keepdims=True)
    grid = np.arange(1, 5)[None, None, :, None] * direction[:, None, None]
    return np.broadcast_to(grid, (8, 4, 4, 2)).reshape(-1)


def _linear_gain(key: str) -> float:
    if re.search(r"decoder.*\.(out_proj|output_proj|linear2|linear2_box)\.", key):
        return 0.25
    if ".time_attention_weights." in key:
        return 6.0
    hidden = re.search(r"\.(linear1|linear1_box|fc1)\.|^controller|bbox_embed", key)
    return 2**0.5 if hidden else 1.0
