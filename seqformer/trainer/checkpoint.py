"""Checkpoints: one file per run that the predictor, `--weights` and `--resume` all read.

The layout follows the published files: `model` holds the published parameter names, `optimizer`,
`lr_scheduler`, `epoch` and `args` are beside it. Everything in it is a tensor or a plain type, so
`torch.load(weights_only=True)` reads it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from seqformer.config import TrainConfig, config_to_dict
from seqformer.trainer.progress import LOG_NAME

CHECKPOINT_NAME = "checkpoint.pth"

# What may differ between a run and its continuation: where files lie, how long the run is, how
# often it reports, and how it is executed. Anything else would silently be another run. (The number
# of classes follows the data, whose class map is compared by itself.)
_MAY_CHANGE = {
    "output",
    "max_steps",
    "epochs",
    "resume",
    "weights",
    "drop_class_heads",
    "backbone_weights",
    "device",
    "log_every",
    "checkpoint_every",
    "eval_every_epochs",
    "eval",
    "model.num_classes",
    "data.train_images",
    "data.train_annotations",
    "data.val_images",
    "data.val_annotations",
    "data.num_workers",
    "data.cache_frames",
}


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then put it in place in one step.

    Whatever happens while writing, `path` holds either the old content or all of the new.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    write_atomically(path, lambda file: torch.save(state, file))


def prepare_output(config: TrainConfig) -> None:
    """Make sure the run may write to its output folder, before anything heavy starts.

    Raises: ValueError when the folder holds another run and `resume` is off; FileNotFoundError when
        `resume` is on and there is no checkpoint; OSError (in words) when it cannot be written.
    """
    output = config.output
    checkpoint = output / CHECKPOINT_NAME
    if config.resume:
        if not checkpoint.is_file():
            raise FileNotFoundError(
                f"--resume, but {checkpoint} does not exist; "
                "give the folder of the run as --output, or start anew without --resume"
            )
    else:
        found = [name for name in (CHECKPOINT_NAME, LOG_NAME) if (output / name).exists()]
        if found:
            raise ValueError(
                f"{output} already holds a run ({', '.join(found)}); "
                "continue it with --resume, or choose another --output"
            )
    probe = output / f".write_test_{os.getpid()}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = f"cannot write to the output folder {output} ({error.strerror})"
        raise OSError(f"{reason}; choose another --output") from error


def check_resumable(extra: dict[str, Any], path: Path) -> None:
    """Refuse a file that has weights but not the rest of a run.

    Raises: ValueError naming what is missing.
    """
    needed = {"optimizer", "lr_scheduler", "epoch", "step", "args", "classes", "rng"}
    missing = sorted(needed - set(extra))
    if missing:
        raise ValueError(
            f"{path} cannot be resumed: it lacks {', '.join(missing)}. "
            "To start from its weights, use --weights and another --output"
        )


def check_same_run(config: TrainConfig, saved: dict[str, Any], path: Path) -> None:
    """Refuse to continue a checkpoint under settings that make it another run.

    Raises: ValueError naming each differing setting with both values.
    """
    now, then = _flat(config_to_dict(config)), _flat(saved["args"])
    differing = [
        f"{name} was {then.get(name, 'absent')} and is now {now.get(name, 'absent')}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
        and name not in _MAY_CHANGE
        and name.split(".")[0] not in _MAY_CHANGE
    ]
    if differing:
        raise ValueError(
            f"{path} belongs to a run with other settings: {'; '.join(differing)}. Resume with the "
            "old settings, or start a new run from its weights with --weights and another --output"
        )


def _flat(state: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in state.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def rng_state() -> dict[str, Any]:
    """State of every random generator of this process, as tensors and plain types."""
    version, inner, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "torch": torch.get_rng_state(),
        "python": [version, list(inner), gauss],
        "numpy": [str(kind), keys.tolist(), int(position), int(has_gauss), float(cached)],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng_state(state: dict[str, Any]) -> None:
    """Inverse of `rng_state`."""
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
