"""Which checkpoint a run goes on from, and whether it may."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from seqformer.command import sentence_of
from seqformer.config import TrainConfig
from seqformer.distributed.context import DistributedContext
from seqformer.structures import ClassMap
from seqformer.trainer.checkpoint import Checkpoints
from seqformer.trainer.checkpoint_folders import newest_sound, read_run
from seqformer.trainer.run_folder import check_same_run

logger = logging.getLogger(__name__)


def agree_on_checkpoint(
    output: Path, parallel: DistributedContext, is_there: bool, without: tuple[Path, ...] = ()
) -> Path | None:
    """The newest sound checkpoint as rank 0 sees it, whatever a shared file system shows others.

    Raises: ValueError or OSError, on every process, when there should be one and there is none.
    """
    newest: Path | None = None
    problem: str | None = None
    if parallel.is_main and is_there:
        try:
            newest = newest_sound(output, without)
        except (ValueError, OSError) as error:
            problem = sentence_of(error)
    newest, problem = parallel.gather((newest, problem))[0]
    if problem is not None:
        raise ValueError(problem)
    return newest


def check_same_data(
    path: Path, saved: dict[str, Any], classes: ClassMap, steps_per_epoch: int
) -> None:
    """Refuse to continue a checkpoint on other data.

    Args:
        path: the checkpoint.
        saved: its `run.json`.
        classes: of the data of now.
        steps_per_epoch: likewise.

    Raises: ValueError naming what differs.
    """
    before = ClassMap.from_dict(saved["classes"])
    if before != classes:
        raise ValueError(
            f"{path} was trained on other classes than the annotation file has "
            f"({_differing_classes(before, classes)}); to fine-tune, use --weights and "
            "another --output"
        )
    if saved["steps_per_epoch"] != steps_per_epoch:
        raise ValueError(
            f"{path} comes from a run of {saved['steps_per_epoch']} steps per epoch; this "
            f"data makes {steps_per_epoch}. Resume with the same data"
        )


def load_newest(
    checkpoints: Checkpoints,
    config: TrainConfig,
    path: Path,
    saved: dict[str, Any],
    tensors: dict[str, Any],
) -> tuple[Path, dict[str, Any]]:
    """Fill tensors from a checkpoint, or from one before it if it cannot be read.

    Args:
        checkpoints: of the run.
        config: the settings of now.
        path: the checkpoint that is tried first.
        saved: its `run.json`.
        tensors: nested dicts, as for `Checkpoints.load`.

    Returns: the checkpoint that was read and its `run.json`.
    Raises: ValueError naming the newest one when none can be read.
    """
    refused: dict[Path, str] = {}
    while True:
        problem = None
        try:
            checkpoints.load(path, tensors)
        except ValueError as error:
            problem = str(error)
        problems = [text for text in checkpoints.parallel.gather(problem) if text is not None]
        if not problems:
            break
        refused[path] = problems[0]
        try:
            other = agree_on_checkpoint(config.output, checkpoints.parallel, True, tuple(refused))
            assert other is not None
            path, saved = other, read_run(other)
        except ValueError:
            raise ValueError(next(iter(refused.values()))) from None
        check_same_run(config, saved, path)
    for damaged, reason in refused.items():
        logger.warning("%s is not used: %s", damaged, reason)
    checkpoints.last_step = saved["step"]
    return path, saved


def _differing_classes(then: ClassMap, now: ClassMap) -> str:
    """The first categories that differ, and how many there are."""
    old, new = (dict(zip(one.ids, one.names, strict=True)) for one in (then, now))
    differing = [i for i in sorted(old.keys() | new.keys()) if old.get(i) != new.get(i)]
    named = [
        f"{i} was {old.get(i, 'absent')!r} and is now {new.get(i, 'absent')!r}"
        for i in differing[:3]
    ]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return ", ".join(named) + more if differing else "their order"
