"""The checkpoints of a run on disk: which there are, which are sound, and what `run.json` says."""

from __future__ import annotations

import logging
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

from seqformer.files import write_error
from seqformer.model.weight_files import RUN_NAME, read_run_settings

logger = logging.getLogger(__name__)
FOLDER_NAME = "checkpoints"
_IN_RUN: dict[str, Any] = {
    "step": int,
    "steps_per_epoch": int,
    "global_batch_size": int,
    "seconds": (int, float),
    "log_window": list,
    "skipped_steps": int,
    "scaler": dict,
    "args": dict,
    "classes": dict,
}
"""What `run.json` must hold for a run to go on."""
_DAMAGED = ".damaged"
_CHUNK_BYTES = 1 << 24


def checkpoint_folders(output: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, damaged or not; other names are not its own."""
    folder = output / FOLDER_NAME
    folders = folder.iterdir() if folder.is_dir() else ()
    return sorted((p for p in folders if re.fullmatch(r"step_\d+", p.name)), key=step_of)


def complete_checkpoints(output: Path) -> list[Path]:
    """Those that say what they are."""
    return [path for path in checkpoint_folders(output) if (path / RUN_NAME).is_file()]


def newest_sound(output: Path, without: tuple[Path, ...] = ()) -> Path:
    """The newest checkpoint of a run whose files are as they were written.

    Newer ones that are damaged are warned of and put aside under another name, so that they count
    among the checkpoints no more.

    Args:
        without: these are not taken, either.

    Raises: ValueError naming the newest one when none is sound; nothing is renamed then.
    """
    damaged: list[tuple[Path, str]] = []
    for path in reversed(checkpoint_folders(output)):
        if path in without:
            continue
        damage = damage_of(path)
        if damage is None:
            for other, reason in damaged:
                aside = _put_aside(other)
                logger.warning(
                    "%s is damaged (%s) and is kept as %s; the checkpoint before it, %s, is used",
                    *(other, reason, aside.name, path.name),
                )
            return path
        damaged.append((path, damage))
    if not damaged:
        raise ValueError(f"no other checkpoint in {output / FOLDER_NAME} can be used")
    path, reason = damaged[0]
    raise ValueError(
        f"{path} is damaged ({reason}), and no checkpoint before it is sound; start anew with "
        "another --output"
    )


def damage_of(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None where nothing is known to be."""
    try:
        files = read_run(path).get("files", {})
        for name, (size, checksum) in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
            if checksum_of(file) != checksum:
                return f"{name} has changed since it was written"
    except (ValueError, OSError) as error:
        return str(error)
    except (TypeError, AttributeError):
        return f"{RUN_NAME} has no proper list of files"
    return None


def checksum_of(file: Path) -> int:
    """CRC-32 of a file."""
    checksum = 0
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def read_run(path: Path) -> dict[str, Any]:
    """The `run.json` of a checkpoint.

    Raises: ValueError naming the file when it cannot be read or lacks something.
    """
    run = read_run_settings(path)
    for key, kinds in _IN_RUN.items():
        if not isinstance(run.get(key), kinds) or isinstance(run[key], bool):
            raise ValueError(
                f"{path / RUN_NAME} has no proper {key} ({run.get(key)!r:.40}); delete the folder "
                "to resume from the checkpoint before it"
            )
    return run


def step_of(path: Path) -> int:
    """The step that a checkpoint folder is named after."""
    return int(path.name.removeprefix("step_"))


def _put_aside(path: Path) -> Path:
    """Give a damaged checkpoint another name. Raises: WriteError."""
    aside = path.with_name(path.name + _DAMAGED)
    try:
        if aside.exists():
            shutil.rmtree(aside)
        os.replace(path, aside)
    except OSError as error:
        raise write_error(aside, error) from error
    return aside
