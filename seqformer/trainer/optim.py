"""The optimiser's parameter groups and the learning-rate schedule of the paper.

Groups are decided by the *published* parameter names and keep their order, so that an optimiser
state lines up with one written by the original code, parameter by parameter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seqformer.config import OptimConfig, TuningConfig
from seqformer.model import published_name
from seqformer.trainer.frozen_parts import is_frozen
from seqformer.trainer.layer_decay import split_by_layer
from seqformer.trainer.muon import MuonAdamW


def parameter_groups(
    model: nn.Module, config: OptimConfig, tuning: TuningConfig | None = None
) -> list[dict]:
    """AdamW groups main, backbone, linear_proj; parameters under their published names.

    Frozen backbone layers are left out, and so is what `tuning` freezes; where it lets learning
    rates decay, Swin's blocks follow as groups of their own. parity: the output_proj_box of the
    encoder layers and Swin's first output norm, which take part in nothing, stay listed: they have
    no gradient, so they are neither updated nor decayed.

    Returns: dicts with name, lr and params, a list of (published name, parameter).
    """
    tuning = tuning or TuningConfig()
    members: dict[str, list[tuple[str, nn.Parameter]]] = {
        "main": [],
        "backbone": [],
        "linear_proj": [],
    }
    for our_name, parameter in model.named_parameters():
        name = published_name(our_name)
        if is_frozen(our_name, tuning.freeze):
            continue
        if "backbone.0" in name:
            if parameter.requires_grad or ".norm0." in name:
                members["backbone"].append((name, parameter))
        elif "reference_points" in name or "sampling_offsets" in name:
            members["linear_proj"].append((name, parameter))
        else:
            members["main"].append((name, parameter))
    rates = {
        "main": config.lr,
        "backbone": config.lr_backbone,
        "linear_proj": config.lr * config.lr_linear_proj_mult,
    }
    groups = [
        {"name": name, "params": params, "lr": rates[name]} for name, params in members.items()
    ]
    return groups if tuning.layer_decay == 1 else split_by_layer(groups, tuning.layer_decay)


def build_optimizer(
    model: nn.Module, config: OptimConfig, tuning: TuningConfig | None = None
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, fused (on the CPU too it is several times faster), with Muon
    for matrices where `config` asks for it."""
    groups = [group for group in parameter_groups(model, config, tuning) if group["params"]]
    if config.muon:
        return MuonAdamW(groups, config.weight_decay, config.muon)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> tuple[str, ...]:
    """Names of what a step keeps of a parameter's gradients, each of the parameter's shape."""
    if isinstance(optimizer, MuonAdamW) and optimizer.takes(parameter):
        return ("momentum",)
    return ("exp_avg", "exp_avg_sq")


def lr_factor(step: int, config: OptimConfig, steps_per_epoch: int, total_steps: int) -> float:
    """Factor on every group's learning rate at a step (counted from 0).

    The step schedule drops tenfold after each of `lr_drop_epochs` whole epochs, or after
    `lr_drop_steps`; the cosine falls from 1 to `cosine_floor` over the run. All start with
    `warmup_steps` of linear warm-up.
    """
    if step < config.warmup_steps:
        if config.warmup_factor is None:
            return (step + 1) / (config.warmup_steps + 1)
        share = step / config.warmup_steps
        return config.warmup_factor * (1 - share) + share
    if config.schedule == "step" and config.lr_drop_steps:
        return 0.1 ** sum(step >= drop for drop in config.lr_drop_steps)
    if config.schedule == "step":
        epoch = step // steps_per_epoch
        return 0.1 ** sum(epoch >= drop for drop in config.lr_drop_epochs)
    after_warmup = max(1, total_steps - config.warmup_steps)
    share = min(1.0, (step - config.warmup_steps) / after_warmup)
    return config.cosine_floor + (1 - config.cosine_floor) * (1 + math.cos(math.pi * share)) / 2


def apply_schedule(
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
    step: int,
    steps_per_epoch: int,
    total_steps: int,
) -> None:
    """Set every group's learning rate for a step (counted from 0). It depends on nothing else, so
    a resumed run needs no state of the schedule."""
    factor = lr_factor(step, config, steps_per_epoch, total_steps)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `max_norm` (0: leave them alone).

    Returns: the norm before clipping, on the device; nothing waits for it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm, foreach=True)
    return norm
