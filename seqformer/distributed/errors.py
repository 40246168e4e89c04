"""What all runs of several processes have in common: how the loss of one is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


class LostProcessError(RuntimeError):
    """Another process of the run ended, or did not answer in time."""

    ends_at_once = True
    """Threads may still wait for the lost process; nothing of this one is worth waiting for."""


def is_communication_error(error: BaseException) -> bool:
    """Whether a collective failed; torch has no type of its own for gloo's failures."""
    known: tuple[str, ...] = (
        "gloo",
        "Gloo",
        "NCCL",
        "Connection closed by peer",
        "Timed out waiting",
    )
    known += ("Connection reset by peer", "Broken pipe", "Socket Timeout")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in known)
    )


def lost_process(error: BaseException) -> LostProcessError:
    """The sentence for a failed collective."""
    text = str(error)
    hung = "imed out" in text or "imeout" in text
    happened = "did not answer in time" if hung else "ended"
    return LostProcessError(
        f"another process of this run {happened}; its own message says why "
        f"({text.splitlines()[0][:160]})"
    )


@contextmanager
def communication_errors() -> Iterator[None]:
    """Inside, the failure of a collective becomes a LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, LostProcessError) or not is_communication_error(error):
            raise
        raise lost_process(error) from error
