"""Both stages of the recipe as one run, which goes on where it was stopped.

Every stage is what `seqformer train` would run, in a folder of its own. Between them stands the
chain's state, one small file. A stage that was stopped, in whatever way, goes on from its newest
checkpoint; one that ended just before the state said so validates once more and changes nothing.
"""

from __future__ import annotations

import gc
import logging
import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from seqformer.command import end_if_asked
from seqformer.config.chain import ChainOptions
from seqformer.distributed.environment import launch
from seqformer.files import locked, make_folder, replacing
from seqformer.trainer.chain_stages import FileStage, Stage, TrainingStage, data_of
from seqformer.trainer.chain_state import STATE_NAME, ChainState
from seqformer.trainer.errors import SetupError, setup_errors
from seqformer.trainer.run_folder import LOCK_NAME
from seqformer.trainer.trainer import WEIGHTS_NAME, train

logger = logging.getLogger(__name__)

RESULTS = ("results.json", "metrics.json", WEIGHTS_NAME)
"""What the last stage leaves, and the chain beside its stages."""
_POLL_SECONDS = 0.2


def run_chain(options: ChainOptions, stages: list[Stage]) -> bool:
    """Run all stages that are not finished.

    Args:
        options: where.
        stages: in order.

    Returns: whether the chain is finished; not when it was asked to stop.
    Raises: as `train`; SetupError when something is missing or the folder holds another chain.
    """
    is_main, output = launch().rank == 0, options.output
    with ExitStack() as stack:
        with setup_errors():
            missing = () if options.demo else data_of(options).missing
            if missing:
                raise SetupError("; ".join(missing))
            if is_main:
                make_folder(output, "--output")
                what = f"the output folder {output}"
                stack.enter_context(locked(output / LOCK_NAME, what))
            state = _begin(stages, output, is_main)
        for number, stage in enumerate(stages, 1):
            end_if_asked()
            if stage.name in state.finished:
                logger.info("stage %d of %d, %s: finished", number, len(stages), stage.name)
                continue
            logger.info("stage %d of %d, %s", number, len(stages), stage.name)
            if not _run(stage, output, is_main):
                return False
            state = replace(state, finished=(*state.finished, stage.name))
            if is_main:
                state.write(output)
        if is_main:
            _take_results(stages, output)
    return True


def _begin(stages: list[Stage], output: Path, is_main: bool) -> ChainState:
    """The state to go on from.

    Raises: ValueError when the folder holds another chain.
    """
    state = ChainState.read(output)
    if state is None:
        state = ChainState.of(stages)
        if is_main:
            state.write(output)
    else:
        state.check(stages, output)
        if is_main:  # with what may differ, as it is now
            replace(ChainState.of(stages), finished=state.finished).write(output)
    return state


def _run(stage: Stage, output: Path, is_main: bool) -> bool:
    """One stage. Returns: whether it is finished."""
    if isinstance(stage, FileStage):
        if is_main:
            with setup_errors():
                stage.make()
        else:
            _wait_for(stage, output)
        return True
    train(stage.config)  # it goes on from a checkpoint if there is one
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return (stage.config.output / WEIGHTS_NAME).is_file()


def _wait_for(stage: FileStage, output: Path) -> None:
    """Until rank 0 has made the files of a stage; where it fails the launcher ends this process."""
    while True:
        state = ChainState.read(output)
        if state is not None and stage.name in state.finished:
            return
        end_if_asked()
        time.sleep(_POLL_SECONDS)


def _take_results(stages: list[Stage], output: Path) -> None:
    """Copy what the last stage has made into the chain's folder. Raises: WriteError."""
    last = stages[-1]
    assert isinstance(last, TrainingStage)
    for name in RESULTS:
        source = last.config.output / name
        if source.is_file():
            with replacing(output / name) as temporary:
                shutil.copyfile(source, temporary)
    logger.info("the chain is finished; results are in %s (%s)", output, STATE_NAME)
