"""Whose folder it is: may a run begin here, or go on from what lies here?

All of it is decided from small files, before anything heavy starts.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from seqformer.config import TrainConfig, changeable, config_to_dict, grouped
from seqformer.config.as_json import flat_settings
from seqformer.files import locked, make_folder
from seqformer.trainer.checkpoint_folders import FOLDER_NAME, checkpoint_folders
from seqformer.trainer.run_log import LOG_NAME


def is_restart() -> bool:
    """Whether torchrun or SLURM started this process again after a failure or preemption."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(int(os.environ.get(name, "0")) > 0 for name in counts)


LOCK_NAME = ".lock"


def own_output(config: TrainConfig, is_main: bool) -> AbstractContextManager[None]:
    """Inside, no other run works in the output folder; the ranks of a run share rank 0's lock.

    Raises: InUseError at once when another run does; WriteError when the folder cannot be written.
    """
    output = config.output
    is_refused = config.checkpoint.resume and not output.is_dir()  # by `prepare_output`
    if not is_main or is_refused:
        return nullcontext()
    make_folder(output, "--output")
    return locked(output / LOCK_NAME, f"the output folder {output}")


def prepare_output(config: TrainConfig) -> Path | None:
    """Make sure the run may write to its output folder.

    Returns: the newest checkpoint, where there is one to go on from; None to begin.
    Raises: ValueError when the folder holds another run and it may not be continued;
        FileNotFoundError when `resume` is on and there is no checkpoint; WriteError when the folder
        cannot be written.
    """
    output = config.output
    checkpoints = checkpoint_folders(output)
    if config.checkpoint.resume and not checkpoints:
        raise FileNotFoundError(
            f"--resume, but {output / FOLDER_NAME} holds no checkpoint; "
            "give the folder of the run as --output, or start anew without --resume"
        )
    may_continue = config.checkpoint.resume or config.checkpoint.auto_resume or is_restart()
    if not may_continue:
        traces = [name for name in (FOLDER_NAME, LOG_NAME) if (output / name).exists()]
        if traces:
            raise ValueError(
                f"{output} already holds a run ({', '.join(traces)}); "
                "continue it with --resume, or choose another --output"
            )
    make_folder(output, "--output")
    return checkpoints[-1] if checkpoints else None


def check_same_run(config: TrainConfig, saved: dict[str, Any], path: Path) -> None:
    """Refuse to continue a checkpoint under settings that make it another run.

    Args:
        config: the settings of now.
        saved: `run.json` of the checkpoint.
        path: the checkpoint.

    Raises: ValueError naming each differing setting with both values.
    """
    differing = differing_settings(config, saved["args"])
    asked = config.data.global_batch_size
    if asked and asked != saved["global_batch_size"]:
        differing.append(
            f"data.global_batch_size was {saved['global_batch_size']} and is now {asked}"
        )
    if differing:
        raise ValueError(
            f"{path} belongs to a run with other settings: {'; '.join(differing)}. Resume with the "
            "old settings, or start a new run from its weights with --weights and another --output"
        )


def differing_settings(
    config: TrainConfig, args: dict[str, Any], kept: tuple[str, ...] = ()
) -> list[str]:
    """What makes a config another run than one whose settings were saved, in words.

    Args:
        args: the saved settings; what an older version did not know was as it is by default.
        kept: settings besides that may not differ, though a run may be resumed with others.
    """
    now = flat_settings(config_to_dict(config))
    then = flat_settings(config_to_dict(type(config)())) | flat_settings(
        grouped(type(config), args)
    )
    may_change = changeable(type(config)) - set(kept)
    return [
        f"{name} was {then.get(name, 'absent')} and is now {now.get(name, 'absent')}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name) and name not in may_change
    ]
