"""Training steps: forward, losses, backward; and the same with clipping and AdamW.

In float32 all sides are float32. In the half-precision cases ours runs as the trainer does, under
autocast, and the published formulation stays float32, which is all that the original code offers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.baselines import original
from bench.baselines.published import published_training_losses
from bench.baselines.torch_compile import compiled_parts
from bench.suite.assignment import solver
from bench.suite.model_cost import HALVES, training_cost
from bench.suite.model_inputs import (
    TINY,
    ModelSize,
    model_of,
    own_model_of,
    padding_and_targets,
    video,
)
from bench.suite.ours import our_training_losses
from bench.suite.rounding import tf32
from bench.suite.schema import Call, Case, Side, Size
from seqformer.config import OptimConfig
from seqformer.criterion import SetCriterion
from seqformer.model import published_name
from seqformer.trainer.optim import build_optimizer, clip_gradients, parameter_groups
from seqformer.trainer.precision import Precision, keep_float32_islands

PRECISIONS = {"bfloat16": "bf16", "float16": "fp16"}
PUBLISHED_SCALE = {"height": 480, "width": 768, "frames": 5}
GRADIENT_TOLERANCE = 2e-2
"""Of single tensors' gradients, as in the tests of the published formulation: they are what remains
of large sums that cancel."""

Update = Callable[[], None]
Rounding = Callable[[], AbstractContextManager[None]]


def cases(size: Size) -> Iterator[Case]:
    if size == "smoke":
        yield training_case(TINY)
        yield training_case(TINY, "bfloat16")
        yield training_case(TINY, with_optimizer=True)
        return
    if size == "cpu":
        yield training_case(ModelSize())
        yield training_case(ModelSize(), "bfloat16")
        yield training_case(ModelSize(), with_optimizer=True)
        return
    for clips in (1, 2):
        scale = ModelSize(clips=clips, **PUBLISHED_SCALE)
        yield training_case(scale, "bfloat16")
        yield training_case(scale)
    for backbone in ("swin_l", "resnet101", "resnext101_32x8d"):
        yield training_case(ModelSize(backbone=backbone, **PUBLISHED_SCALE), "bfloat16")
    yield training_case(ModelSize(**PUBLISHED_SCALE), "bfloat16", with_optimizer=True)


def training_case(size: ModelSize, dtype: str = "float32", with_optimizer: bool = False) -> Case:
    """One step of one model at one size."""
    op = "training step with optimiser" if with_optimizer else "training step"
    sides = [
        Side(name="ours", build=partial(_ours, size, dtype, with_optimizer)),
        Side(name="published", build=partial(_published, size, dtype, with_optimizer)),
    ]
    if size.backbone == "resnet50" and not with_optimizer:
        sides.append(
            Side(
                name="compiled",
                build=partial(_compiled, size, dtype),
                available=lambda device: device.type == "cuda",
            )
        )
    if size.backbone == "resnet50" and size.overrides == () and not with_optimizer:
        build = partial(_public, size, dtype)
        sides.append(Side(name="public", build=build, available=original.is_available))
    scale = f"B={size.clips} T={size.frames} {size.height}x{size.width}"
    return Case(
        name=f"{op} {size.backbone} {scale} {dtype}",
        op=op,
        group="model",
        direction="both",
        dtype=dtype,
        shapes=size.shapes(),
        cost=training_cost(size, dtype),
        units=("clips", size.clips),
        sides=tuple(sides),
        tolerance=GRADIENT_TOLERANCE if dtype == "float32" else None,
    )


def _ours(size: ModelSize, dtype: str, with_optimizer: bool, device: torch.device) -> Call:
    is_half = dtype in HALVES
    model = (own_model_of if is_half or with_optimizer else model_of)(size, device).train()
    criterion = SetCriterion()
    precision = None
    if is_half:
        keep_float32_islands(model)
        precision = Precision(PRECISIONS[dtype], device)
    images = video(size, device)
    padding_mask, targets = padding_and_targets(size, device)

    def loss() -> Tensor:
        losses = our_training_losses(model, images, padding_mask, targets, criterion, precision)
        return criterion.weighted_sum(losses)

    update = None
    if with_optimizer:
        optimizer = build_optimizer(model, OptimConfig())
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def update() -> None:
            clip_gradients(parameters, OptimConfig().clip_max_norm)
            optimizer.step()

    return _step(model, loss, dtype, partial(tf32, is_half, is_half), update)


def _published(size: ModelSize, dtype: str, with_optimizer: bool, device: torch.device) -> Call:
    model = (own_model_of if with_optimizer else model_of)(size, device).train()
    update = _default_optimizer(model) if with_optimizer else None
    return _step(model, _published_loss(model, size, device), dtype, _default_tf32(dtype), update)


def _compiled(size: ModelSize, dtype: str, device: torch.device) -> Call:
    model = model_of(size, device).train()
    loss = _published_loss(model, size, device)
    step = _step(model, loss, dtype, _default_tf32(dtype), None)

    def compiled() -> dict[str, Tensor]:
        with compiled_parts():
            return step()

    return compiled


def _published_loss(
    model: nn.Module, size: ModelSize, device: torch.device
) -> Callable[[], Tensor]:
    images = video(size, device)
    padding_mask, targets = padding_and_targets(size, device)
    criterion = SetCriterion()

    def loss() -> Tensor:
        losses = published_training_losses(model, images, padding_mask, targets)
        return criterion.weighted_sum(losses)

    return loss


def _public(size: ModelSize, dtype: str, device: torch.device) -> Call:
    model = original.PublicModel(size, device)
    targets = padding_and_targets(size, device)[1]
    names = {name: published_name(name) for name in _watched(model_of(size, device))}
    loss = partial(model.loss, targets)
    return _step(model.module.train(), loss, dtype, _default_tf32(dtype), None, names)


def _default_optimizer(model: nn.Module) -> Update:
    """Clipping and AdamW as the original training loop calls them, PyTorch's defaults."""
    config = OptimConfig()
    groups = parameter_groups(model, config)
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def update() -> None:
        nn.utils.clip_grad_norm_(parameters, config.clip_max_norm)
        optimizer.step()

    return update


def _default_tf32(dtype: str) -> Rounding:
    return partial(tf32, False, dtype in HALVES)


def _watched(model: nn.Module) -> list[str]:
    """Parameters whose gradients are compared: they depend on everything after them."""
    trained = (n for n, p in model.backbone.named_parameters() if p.requires_grad)
    return ["query_embed.weight", f"backbone.{next(trained)}"]


def _step(
    model: nn.Module,
    loss: Callable[[], Tensor],
    dtype: str,
    rounding: Rounding,
    update: Update | None,
    names: dict[str, str] | None = None,
) -> Call:
    """A call that leaves no gradients behind, so that a peak of memory includes them.

    Its output is the loss, and in float32 the gradients of two parameters; in half precision the
    assignment may differ, and with it gradients. `names` are those parameters' by ours.
    """
    if names is None:
        names = {name: name for name in _watched(model)}
    watched = {ours: model.get_parameter(theirs) for ours, theirs in names.items()}
    if dtype in HALVES:
        watched = {}

    def step() -> dict[str, Any]:
        with rounding(), solver():
            total = loss()
            total.backward()
            output = {name: parameter.grad for name, parameter in watched.items()}
            if update is not None:
                update()
        model.zero_grad(set_to_none=True)
        return {"loss": total.detach(), **output}

    return step
