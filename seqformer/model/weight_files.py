"""Files and folders of weights -> tensors and plain data, whatever is in them.

Nothing in a file is ever executed: torch files are read with `weights_only=True`, and the harmless
plain classes that released files carry beside the tensors are admitted by name. Nothing is built or
allocated after what a file merely claims: sizes are compared with its bytes first.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import pathlib
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..safe_files import check_regular, check_unpacked, open_regular, read_regular
from .convert import with_box_head_aliases
from .numpy_pickle import is_numpy_pickle, read_numpy_pickle

logger = logging.getLogger(__name__)

RUN_NAME = "run.json"
"""What a checkpoint folder holds beside its tensors."""
STATE_KEYS = (
    *("model", "state_dict", "model_state_dict", "ema", "model_ema", "ema_state_dict"),
    *("net", "module"),
)
"""Where files of the usual trainers keep their weights; the first that is there is taken."""
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+|(?<![^.])_orig_mod\.")
"""What DataParallel and torch.compile put into the names of weights."""
_PLAIN_CLASSES: list[Any] = [
    argparse.Namespace,
    collections.Counter,
    collections.OrderedDict,
    collections.defaultdict,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
]
# What torch raises for files that are damaged in one way or another.
_DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError),
    *(MemoryError, OSError, RecursionError, RuntimeError, TypeError, ValueError),
    *(struct.error, zlib.error),
)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of a file or checkpoint folder, and all else that it holds.

    Names come without what DataParallel and torch.compile add to them.

    Raises: FileNotFoundError; ValueError naming the file when it is damaged, holds no weights,
        other objects than tensors and plain data, or tensors larger than its bytes.
    """
    content = _read_folder(path) if path.is_dir() else _read_file(path)
    most = None if path.is_dir() else _unpacked_size(path)
    places = [key for key in STATE_KEYS if _holds_tensors(content.get(key))]
    if places:
        state = content.pop(places[0])
        if len(places) > 1:
            logger.warning(
                "%s holds weights under %s; those under %r are taken",
                path,
                ", ".join(map(repr, places)),
                places[0],
            )
        while not any(isinstance(value, Tensor) for value in state.values()):
            state = next(value for value in state.values() if _holds_tensors(value))
    else:
        state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
        content = {key: value for key, value in content.items() if key not in state}
    if not state:
        keys = sorted(map(str, content))[:8]
        raise ValueError(f"{path} holds no weights: expected {{'model': state dict}}, found {keys}")
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _WRAPPERS.sub("", str(key))
        if name in named:
            raise ValueError(f"{path} holds the weight {name} twice, with and without a wrapper")
        _check_tensor(path, name, value, most)
        named[name] = value
    return named, content


def read_run_settings(folder: Path) -> dict[str, Any]:
    """The `run.json` of a checkpoint folder. Raises: ValueError naming the file."""
    path = folder / RUN_NAME
    remedy = "copy it again, or delete the folder to go on from the checkpoint before it"
    try:
        run = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)}); {remedy}") from None
    if not isinstance(run, dict):
        raise ValueError(f"{path} holds a {type(run).__name__}, not the settings; {remedy}")
    return run


def safetensors_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file; equal content gives equal bytes.

    The library writes the metadata in an order that differs from process to process.
    """
    from safetensors.torch import save

    data = save(tensors, metadata=metadata)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = {"__metadata__": header.pop("__metadata__"), **header}
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _holds_tensors(value: Any, depth: int = 0) -> bool:
    if not isinstance(value, dict) or depth > 2:
        return False
    return any(isinstance(v, Tensor) or _holds_tensors(v, depth + 1) for v in value.values())


def _check_tensor(path: Path, name: str, value: Any, most: int | None) -> None:
    """
    Args:
        most: bytes in the file; None for those of a folder, which were compared before.

    Raises: ValueError.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{path}: weight {name} is a {type(value).__name__}, not a tensor")
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise ValueError(f"{path}: weight {name} is sparse, quantised or without numbers")
    has = value.untyped_storage().nbytes()
    has = has if most is None else min(has, most)  # old files only say how many they have
    if value.numel() * value.element_size() > has:
        raise ValueError(
            f"{path}: weight {name} says that it has shape {list(value.shape)}, but the file "
            "holds fewer numbers"
        )
    if value.is_complex():
        raise ValueError(f"{path}: weight {name} holds complex numbers")
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise ValueError(
            f"{path}: weight {name} holds NaN or infinite numbers; the run that wrote it "
            "diverged, use an earlier checkpoint"
        )


def _read_file(path: Path) -> dict[str, Any]:
    check_regular(path, "weights file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with open_regular(path, "weights file") as file:
        first = file.read(64)
    if is_numpy_pickle(path, first):
        return read_numpy_pickle(path)
    check_unpacked(path, _unpacked_size(path), path.stat().st_size)
    try:
        with torch.serialization.safe_globals(_PLAIN_CLASSES):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds objects that are not weights, or is corrupt; it was not executed "
            f"({_what_is_refused(error)})"
        ) from error
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is not a readable checkpoint, it may be cut off: {first_line(error)}; "
            "download or copy it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return dict(content)


def _what_is_refused(error: pickle.UnpicklingError) -> str:
    """The reason in what torch's loader says, without its advice to execute the file."""
    text = str(error).rpartition("WeightsUnpickler error:")[2]
    line = next((line.strip() for line in text.splitlines() if line.strip()), "damaged")
    named = re.search(r"GLOBAL (\S+)", line)
    if named is None:
        return line[:200]
    return f"{named[1]}; of a model that was saved whole, save its state_dict() instead"


def _unpacked_size(path: Path) -> int:
    """Bytes that a file holds, those of a zip as it declares them: entries that are stored as they
    are may lie on top of one another. Raises: ValueError."""
    with open_regular(path, "weights file") as file:
        if file.read(4) != b"PK\3\4":
            return path.stat().st_size
        try:
            with zipfile.ZipFile(file) as archive:
                return sum(entry.file_size for entry in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise ValueError(
                f"{path} is not a readable checkpoint, it may be cut off: {first_line(error)}; "
                "download or copy it again"
            ) from None


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open  # building a model takes no more than torch

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        known = ("model_config", "classes", "args")
        extra = {k: json.loads(metadata[k]) for k in known if k in metadata}
    except (SafetensorError, *_DAMAGED) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file: {first_line(error)}"
        ) from error
    return {"model": state, **extra}


def _read_folder(path: Path) -> dict[str, Any]:
    """The weights in a checkpoint folder of a training run, without its optimiser; where the run
    kept their average, that."""
    if not (path / RUN_NAME).is_file():
        raise ValueError(
            f"{path} is not a checkpoint folder, it has no run.json; give a weights file, or a "
            "folder like RUN/checkpoints/step_00001000"
        )
    run = read_run_settings(path)
    # Imported here: torch.distributed.checkpoint takes two thirds as long as torch itself.
    from .checkpoint_folder import read_tensors

    try:
        state = read_tensors(path, ("model.", "ema."))
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is not a readable checkpoint: {first_line(error)}; copy it again"
        ) from error
    averages = {k.removeprefix("ema."): v for k, v in state.items() if k.startswith("ema.")}
    state = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    state |= averages
    return {**run, "model": with_box_head_aliases(state)}


def first_line(error: BaseException) -> str:
    """The first line of what an error says, shortened."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
