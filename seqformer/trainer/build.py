"""From a config to everything that takes a step: model, engine, optimiser, in this order.

Weights first, on every process the same; then what changes how parts run; then DDP or FSDP, which
must see the parts as they will run; then the optimiser, which must see the parameters as they will
be kept.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass

import numpy as np
import torch

from seqformer.config import AUTO_WEIGHTS, TrainConfig
from seqformer.criterion import SetCriterion
from seqformer.distributed.context import DistributedContext
from seqformer.model import (
    SeqFormer,
    build_model_from_config,
    load_weights,
)
from seqformer.model.full_float32 import use_tf32
from seqformer.trainer.backbone_start import SMALL_BACKBONE, start_backbone
from seqformer.trainer.compile_and_recompute import compile_and_recompute
from seqformer.trainer.frozen_parts import freeze
from seqformer.trainer.optim import build_optimizer
from seqformer.trainer.parallel_model import ParallelModel, build_parallel_model
from seqformer.trainer.precision import Precision, keep_float32_islands
from seqformer.trainer.step import TrainingStep
from seqformer.trainer.weight_average import WeightAverage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What takes the steps of a run.

    Attributes:
        average: of the weights; None where none is kept.
    """

    model: SeqFormer
    precision: Precision
    parallel_model: ParallelModel
    optimizer: torch.optim.Optimizer
    step: TrainingStep
    average: WeightAverage | None


def build_training(config: TrainConfig, parallel: DistributedContext, *, is_new: bool) -> Training:
    """Build the model under its engine, and what trains it.

    Args:
        config: the run; its number of classes is that of the data.
        parallel: the processes.
        is_new: whether to start from the weights that the config names.

    Raises: ValueError or FileNotFoundError saying what to change.
    """
    if is_new:
        check_start(config)
    seed_all(config.seed)
    model = build_model_from_config(config.model)
    if config.start.from_scratch:
        model.backbone.requires_grad_(True)
    if is_new and config.start.weights is not None:
        load_weights(model, config.start.weights, drop_class_heads=config.start.drop_class_heads)
    elif is_new and not config.start.from_scratch:
        start_backbone(model, config.start.backbone_weights, parallel)
    freeze(model, config.tuning.freeze)
    model.to(parallel.device)
    is_sharded = parallel.world_size > 1 and config.distributed.parallel in ("fsdp", "hsdp")
    if is_sharded and "model" in config.compute.compile:
        raise ValueError(
            f"--compile makes one graph of the model, and --parallel {config.distributed.parallel} "
            "gathers it piece by piece; use ddp, or name parts: --compile backbone encoder decoder"
        )
    if is_sharded and config.optim.muon:
        raise ValueError(
            f"--optim.muon needs whole matrices, and --parallel {config.distributed.parallel} cuts "
            "them up; use --parallel ddp, or --optim.muon 0"
        )
    precision = Precision(config.compute.precision, parallel.device, caches_weights=not is_sharded)
    use_tf32(config.compute.tf32)
    if precision.low is not None:
        keep_float32_islands(model)
    compile_and_recompute(
        model,
        recompute=config.compute.recompute,
        compile=config.compute.compile,
        channels_last=config.compute.channels_last,
    )
    parallel_model = build_parallel_model(
        model,
        config.distributed.parallel,
        parallel,
        low_precision=precision.low,
        reshard=config.distributed.reshard,
        replicas=config.distributed.hsdp_replicas,
    )
    optimizer = build_optimizer(model, config.optim, config.tuning)
    step = TrainingStep(
        parallel_model,
        SetCriterion.from_config(config.loss),
        optimizer,
        precision,
        clip_max_norm=config.optim.clip_max_norm,
        frame_chunk=config.compute.frame_chunk,
    )
    decay = config.tuning.ema_decay
    average = WeightAverage(model, decay) if decay else None
    return Training(model, precision, parallel_model, optimizer, step, average)


def check_start(config: TrainConfig) -> None:
    """Make sure that a new run begins with trained weights where the recipe takes them for granted.

    Raises: ValueError saying where weights come from.
    """
    backbone = config.model.backbone
    may_look = config.start.backbone_weights == AUTO_WEIGHTS
    has_file = config.start.backbone_weights is not None and not may_look
    has_weights = config.start.weights is not None or has_file
    if config.start.from_scratch and has_weights:
        raise ValueError("--from-scratch and weights exclude one another; leave one of them out")
    if has_weights or backbone == SMALL_BACKBONE:
        return
    if not config.start.from_scratch and may_look:
        return
    if not config.start.from_scratch:
        raise ValueError(
            f"a run on {backbone} starts from trained weights: the recipe keeps its first layers "
            "as ImageNet has made them, and random ones would stay random. Give --weights FILE (a "
            "released SeqFormer) or --backbone-weights FILE (torchvision's ResNet and ResNeXt "
            "files, or the official Swin files; auto finds or downloads them), or --from-scratch "
            "to train all of it"
        )
    logger.warning(
        "%s begins with random weights and all of it is trained; its batch norms, if it has any, "
        "stay the identity, the learning rates are those of the recipe for trained weights, and "
        "many times its steps will be needed",
        backbone,
    )


def seed_all(seed: int, step: int = 0, rank: int = 0) -> None:
    """Every generator of this process, for one step."""
    number = int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
