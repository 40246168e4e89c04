"""How parts of the model are executed: torch.compile, activation checkpointing, channels innermost.

Everything is done in place and changes neither parameter names nor results, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seqformer.model import SeqFormer
from seqformer.model.one_graph import as_one_graph, frames_as_one_graph
from seqformer.model.resnet import Bottleneck, MiniBlock
from seqformer.model.swin import SwinBlock

Part = Literal["backbone", "encoder", "decoder"]
OF_FRAMES = ("forward", "box_stream")
OF_INSTANCES = ("instance_stream", "instance_heads")
"""Methods of the model that a training step calls."""


def compile_and_recompute(
    model: SeqFormer,
    *,
    recompute: Collection[Part] = (),
    compile: Collection[Part | Literal["model"]] = (),
    channels_last: bool = False,
) -> None:
    """Set up the execution of a model, before DDP or FSDP see it.

    Args:
        model: changed in place.
        recompute: parts whose blocks keep only their inputs for the backward pass.
        compile: parts whose blocks go through torch.compile, or "model" for all of it as one
            graph, for any frame size and number of frames.
        channels_last: memory layout of the maps in a convolutional backbone.
    """
    for part in compile:
        for block, name in () if part == "model" else _blocks(model, part):
            setattr(block, name, torch.compile(getattr(block, name), dynamic=True))
    for part in recompute:
        for block, name in _blocks(model, part):
            setattr(block, name, _recomputed(getattr(block, name)))
    if "model" in compile:
        for name in OF_FRAMES:
            setattr(model, name, frames_as_one_graph(model, getattr(model, name)))
        for name in OF_INSTANCES:
            setattr(model, name, as_one_graph(getattr(model, name)))
    if channels_last:
        # Weights keep their layout, which FSDP and DDP's buckets ask for; maps follow the input.
        model.backbone.register_forward_pre_hook(_with_channels_last)


def _blocks(model: SeqFormer, part: Part) -> list[tuple[nn.Module, str]]:
    """The repeated blocks of a part, each with the method that runs it."""
    if part == "backbone":
        kinds = (Bottleneck, MiniBlock, SwinBlock)
        return [(m, "forward") for m in model.backbone.modules() if isinstance(m, kinds)]
    if part == "encoder":
        return [(layer, "forward") for layer in model.encoder.layers]
    methods = ("box_stream", "instance_stream")
    return [(layer, method) for layer in model.decoder.layers for method in methods]


def _recomputed(run: Callable[..., Any]) -> Callable[..., Any]:
    return partial(checkpoint, run, use_reentrant=False)


def _with_channels_last(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(memory_format=torch.channels_last),)
