"""The checkpoints of a run: one folder each, written by all processes in the background.

`checkpoints/step_00000100/` holds tensors in the format of torch.distributed.checkpoint, under the
published parameter names, and `run.json` with everything else. Any number of processes in any
parallel mode can read it: every one takes the part that it keeps. A folder gets its name only when
it is complete, so whatever has the name can be read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from seqformer.distributed.context import DistributedContext
from seqformer.distributed.errors import LostProcessError, is_communication_error, lost_process
from seqformer.files import WriteError, sync_folder, write_error, write_text
from seqformer.model import published_name
from seqformer.model.checkpoint_folder import TensorFolderReader, inner_cause
from seqformer.model.weight_files import RUN_NAME, first_line
from seqformer.trainer.checkpoint_folders import (
    FOLDER_NAME,
    checksum_of,
    complete_checkpoints,
    step_of,
)
from seqformer.trainer.optim import moments

logger = logging.getLogger(__name__)

# One process without a process group is an ordinary case. (The writer's thread warns, so a filter
# around the call would not do.)
warnings.filterwarnings("ignore", message="torch.distributed is disabled")

_INCOMPLETE, _DISCARDED = ".incomplete", ".discarded"


class CheckpointError(OSError):
    """A checkpoint could not be written; the message says which, why, and what is left."""


class Checkpoints:
    """Writes and reads the checkpoints of one run; every process takes part in every call.

    Attributes:
        last_step: of the newest complete checkpoint, or of the one being written; None without.
    """

    def __init__(self, output: Path, parallel: DistributedContext, keep: int) -> None:
        """
        Args:
            output: the run's folder; several machines must share it.
            parallel: the processes.
            keep: how many of the newest stay; a protected one stays besides.
        """
        self.folder, self.parallel, self.keep = output / FOLDER_NAME, parallel, keep
        self.protected: int | None = None
        self._output = output
        self._writing: threading.Event | None = None  # set when all is done
        self._failure: CheckpointError | LostProcessError | None = None
        folders = complete_checkpoints(output)
        self.last_step = self._step_before = step_of(folders[-1]) if folders else None
        if parallel.is_main:
            for rest in (*self.folder.glob("*" + _INCOMPLETE), *self.folder.glob("*" + _DISCARDED)):
                shutil.rmtree(rest)

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.folder / f"step_{step:08d}"

    def save(self, step: int, tensors: dict[str, Any], run: dict[str, Any]) -> None:
        """Copy a state and write it in the background, after the one before it is done.

        Args:
            step: names the checkpoint.
            tensors: nested dicts of tensors or DTensors.
            run: plain JSON types.

        Raises: CheckpointError when the one before could not be written; LostProcessError when
            another process ended meanwhile.
        """
        self.wait()
        target = self.path(step)
        incomplete = target.with_name(target.name + _INCOMPLETE)
        json.dumps(run)  # what cannot be written is found here, not in the thread
        finished = threading.Event()

        def finish(future: Future) -> None:
            error = future.exception()
            try:
                if error is not None:
                    raise error
                if self.parallel.is_main:
                    files = {
                        file.name: (file.stat().st_size, checksum_of(file))
                        for file in sorted(incomplete.iterdir())
                    }
                    write_text(incomplete / RUN_NAME, json.dumps({**run, "files": files}))
                    _put_in_place(incomplete, target)
                    self._forget_old()
            except BaseException as problem:  # CheckpointException is no Exception; `wait` tells it
                self._failure = _failure(step, target, problem)
                if self.parallel.is_main:
                    shutil.rmtree(incomplete, ignore_errors=True)
            finally:
                finished.set()

        future = dcp.async_save(
            tensors, checkpoint_id=incomplete, process_group=self.parallel.storage
        )
        assert isinstance(future, Future)
        self._writing = finished
        self._step_before, self.last_step = self.last_step, step
        future.add_done_callback(finish)

    def check(self) -> None:
        """Raise what a finished write has to say, without waiting for an unfinished one."""
        if self._writing is not None and self._writing.is_set():
            self.wait()

    def wait(self) -> None:
        """Wait for the write in progress.

        Raises: CheckpointError when it failed; LostProcessError when another process ended.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.wait()
        if self._failure is not None:
            self.last_step = self._step_before
            failure, self._failure = self._failure, None
            raise failure

    def load(self, path: Path, tensors: dict[str, Any]) -> None:
        """Fill tensors in place.

        Raises: ValueError naming the folder when it is damaged or holds other tensors.
        """
        try:
            dcp.load(
                tensors,
                storage_reader=TensorFolderReader(path),
                process_group=self.parallel.storage,
                no_dist=self.parallel.world_size == 1,
            )
        except (CheckpointException, OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"checkpoint {path} cannot be read ({first_line(inner_cause(error))}); if it is "
                "damaged, delete the folder to resume from the one before it"
            ) from error

    def _forget_old(self) -> None:
        for path in complete_checkpoints(self._output)[: -self.keep]:
            if step_of(path) != self.protected:
                discarded = path.with_name(path.name + _DISCARDED)
                os.replace(path, discarded)
                shutil.rmtree(discarded)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by published name; under FSDP, this process's shares."""
    return {published_name(name): tensor for name, tensor in model.state_dict().items()}


def optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """The optimiser's moments and step counts by published parameter name, zero before the first
    step.

    The tensors are the optimiser's own, so loading into them restores it.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for moment in moments(optimizer, parameter):
                state[moment] = torch.zeros_like(parameter)
        tensors[published_name(name)] = dict(state)
    return tensors


def _put_in_place(incomplete: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    sync_folder(incomplete)
    os.replace(incomplete, target)
    sync_folder(target.parent)


def _failure(step: int, target: Path, error: BaseException) -> CheckpointError | LostProcessError:
    """What became of the checkpoint of a step: a full disk, or a process that is gone."""
    inner = inner_cause(error)
    if is_communication_error(error) or is_communication_error(inner):
        return lost_process(inner)
    if isinstance(inner, OSError) and inner.errno is not None:
        reason = str(inner) if isinstance(inner, WriteError) else str(write_error(target, inner))
    else:
        reason = f"{target}: {first_line(inner)}"
    return CheckpointError(f"the checkpoint of step {step} could not be written: {reason}")
