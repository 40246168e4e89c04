"""What a run says of itself before its first step."""

from __future__ import annotations

import logging

import torch

from seqformer.config import TrainConfig
from seqformer.trainer.parallel_model import ParallelModel

logger = logging.getLogger(__name__)


def announce(
    config: TrainConfig,
    parallel_model: ParallelModel,
    steps: tuple[int, int, int],
    global_batch_size: int,
    micro_batches: int,
) -> None:
    """Log what a run is.

    Args:
        config: the run; its number of classes is that of the data.
        steps: done, of the run, and of an epoch.
        global_batch_size: clips of a step.
        micro_batches: of a process in a step.
    """
    model, parallel = parallel_model.model, parallel_model.parallel
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info(
        "%s, %d classes, %.2f M trained parameters; %d process(es) on %s (%s), %d thread(s), %s",
        config.model.backbone,
        config.model.num_classes,
        trained / 1e6,
        parallel.world_size,
        parallel.device,
        parallel_model.mode,
        torch.get_num_threads(),
        config.compute.precision,
    )
    logger.info(
        "%s at step %d of %d (%d per epoch); %d clips per step, %d per process in %d "
        "micro-batch(es); output: %s",
        "continuing" if steps[0] else "starting",
        *steps,
        global_batch_size,
        global_batch_size // parallel.world_size,
        micro_batches,
        config.output,
    )
    if config.tuning.freeze:
        logger.info("frozen: %s", ", ".join(config.tuning.freeze))
