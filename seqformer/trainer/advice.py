"""How an error that ends a run is told: with what is left of the run, and how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from seqformer.command import is_out_of_memory, sentence_of
from seqformer.distributed.errors import LostProcessError
from seqformer.files import WriteError
from seqformer.trainer.checkpoint import CheckpointError, Checkpoints
from seqformer.trainer.errors import DataError, MemoryShortageError
from seqformer.trainer.nonfinite_steps import NonFiniteLossError


@contextmanager
def with_advice(
    checkpoints: Checkpoints, step: Callable[[], int], device: torch.device
) -> Iterator[None]:
    """Inside, errors that the user can do something about say what.

    Args:
        checkpoints: of the run.
        step: how many steps are done, asked for when something goes wrong.
        device: where the run computes.

    Raises: the same kinds of error with longer sentences; MemoryShortageError for every way in
        which memory can be short.
    """
    try:
        yield
    except NonFiniteLossError as error:
        raise NonFiniteLossError(f"{error}. {_after_divergence(checkpoints)}") from None
    except DataError as error:
        raise DataError(f"{error}. {_what_to_mend(checkpoints)}") from error.__cause__
    except (CheckpointError, WriteError) as error:
        raise CheckpointError(f"{error}. {_where_to_go_on(checkpoints)}") from error
    except LostProcessError as error:
        raise LostProcessError(f"{error}. {_where_to_go_on(checkpoints)}") from error.__cause__
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortageError(
            f"step {step() + 1} does not fit into the memory of {device} "
            f"({sentence_of(error)}); a smaller --data.batch-size (the gradients are the same "
            "with --data.global-batch-size as it is), --frame-chunk, --recompute or "
            f"--precision bf16 need less. {_where_to_go_on(checkpoints)}"
        ) from error


def _what_to_mend(checkpoints: Checkpoints) -> str:
    step = checkpoints.last_step
    if step is None:
        return "No checkpoint had been written yet"
    return (
        f"{checkpoints.path(step)} holds step {step}; mend what is broken, or take its "
        "video out of the annotations, and continue with --resume"
    )


def _where_to_go_on(checkpoints: Checkpoints) -> str:
    step = checkpoints.last_step
    if step is None:
        return "No checkpoint had been written yet"
    return f"The checkpoint of step {step} is complete; continue with --resume"


def _after_divergence(checkpoints: Checkpoints) -> str:
    checkpoints.wait()
    step = checkpoints.last_step
    if step is None:
        return "No checkpoint had been written; try a smaller --optim.lr or more warm-up steps"
    return (
        f"{checkpoints.path(step)} still holds the sound weights of step {step}; "
        "start from them with --weights, --no-drop-class-heads, a smaller --optim.lr and "
        "another --output"
    )
