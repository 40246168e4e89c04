"""Learning rates that fall from Swin's last block to its first: `--layer-decay`."""

from __future__ import annotations

import re
from typing import Any

_BODY = "detr.backbone.0.body."


def split_by_layer(groups: list[dict[str, Any]], decay: float) -> list[dict[str, Any]]:
    """The groups with that of the backbone in parts, one for each layer of Swin.

    The patch embedding is layer 0, blocks follow in order, a merge of patches belongs to the block
    before it, and an output norm to the last block of its stage. The last layer has the backbone's
    rate, every one before it `decay` times that of the next.

    Args:
        groups: dicts with name, lr and params, a list of (published name, parameter).

    Returns: the groups; "backbone" is the last layer, the others are "backbone_0", "backbone_1" ...
    """
    split = []
    for group in groups:
        if group["name"] != "backbone":
            split.append(group)
            continue
        names = [name for name, _ in group["params"]]
        first_of_stage = _first_blocks(names)
        last = sum(depth for _, depth in first_of_stage)
        layers: dict[int, list[Any]] = {last: []}
        for name, parameter in group["params"]:
            layers.setdefault(_layer(name, first_of_stage), []).append((name, parameter))
        for layer in sorted(layers, reverse=True):
            name = "backbone" if layer == last else f"backbone_{layer}"
            rate = group["lr"] * decay ** (last - layer)
            split.append({"name": name, "lr": rate, "params": layers[layer]})
    return split


def _first_blocks(names: list[str]) -> list[tuple[int, int]]:
    """Of every stage the number of blocks before it, and its own."""
    depths: dict[int, int] = {}
    for name in names:
        block = re.match(re.escape(_BODY) + r"layers\.(\d+)\.blocks\.(\d+)\.", name)
        if block:
            stage = int(block[1])
            depths[stage] = max(depths.get(stage, 0), int(block[2]) + 1)
    ordered = [depths[stage] for stage in sorted(depths)]
    return [(sum(ordered[:stage]), depth) for stage, depth in enumerate(ordered)]


def _layer(name: str, stages: list[tuple[int, int]]) -> int:
    name = name.removeprefix(_BODY)
    if block := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name):
        return stages[int(block[1])][0] + int(block[2]) + 1
    if stage := re.match(r"(?:layers\.|norm)(\d+)\.", name):
        return sum(stages[int(stage[1])])
    return 0
