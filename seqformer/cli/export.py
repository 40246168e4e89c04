"""The weights of a checkpoint as one safetensors file, which the predictor and `--weights` read.

seqformer export runs/r50/checkpoints/step_00010000 r50.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from seqformer.cli.command import run


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the weights of a checkpoint folder, with its model, classes and frame size."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Folder of a checkpoint, RUN/checkpoints/step_*."""
    output: Annotated[Path, tyro.conf.Positional]
    """File to write, .safetensors."""


def act(options: Options) -> None:
    """The command."""
    from seqformer.trainer.export import export_checkpoint

    export_checkpoint(options.checkpoint, options.output)


def main(arguments: Sequence[str], program: str = "seqformer export") -> int:
    """Entry point. Returns: the exit code."""
    return run(program, Options, act, arguments)
