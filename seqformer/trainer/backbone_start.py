"""ImageNet weights into the backbone of a new run: a named file, or whatever this machine has."""

from __future__ import annotations

import logging
from pathlib import Path

from seqformer.config import AUTO_WEIGHTS
from seqformer.distributed.context import DistributedContext
from seqformer.distributed.environment import launch
from seqformer.model import (
    SeqFormer,
    download_backbone_weights,
    find_backbone_weights,
    load_backbone_weights,
)

logger = logging.getLogger(__name__)

SMALL_BACKBONE = "resnet_mini"
"""Made to be trained from scratch."""


def start_backbone(model: SeqFormer, given: Path | None, parallel: DistributedContext) -> None:
    """Load ImageNet weights into a model. All processes take part.

    Args:
        given: a file, `AUTO_WEIGHTS`, or None, which leaves the model as it is.

    Raises: FileNotFoundError; ValueError naming the file and what does not fit, or saying which
        file to put where.
    """
    if given is None:
        return
    path: Path | None = given
    if given == AUTO_WEIGHTS:
        if model.config.backbone == SMALL_BACKBONE:
            return  # nobody has trained it on ImageNet
        path = _found(model.config.backbone, parallel)
        logger.info("ImageNet weights of %s: %s", model.config.backbone, path)
    assert path is not None
    load_backbone_weights(model, path)


def _found(backbone: str, parallel: DistributedContext) -> Path | None:
    """The file; one process of each machine downloads what is missing. Raises: ValueError."""
    local_rank = launch().local_rank if launch().world_size > 1 else parallel.rank
    path, problem = None, ""
    if local_rank == 0:
        try:
            path = find_backbone_weights(backbone)
            path = path or download_backbone_weights(backbone, show_progress=parallel.is_main)
        except ValueError as error:
            problem = str(error)
    problems = [one for one in parallel.gather(problem) if one]
    if problems:
        raise ValueError(problems[0])
    return path or find_backbone_weights(backbone)
