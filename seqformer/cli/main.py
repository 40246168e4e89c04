"""`seqformer COMMAND ...`: finds the module of a command, and lists what there is."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from seqformer.command import exit_with

PROGRAM = "seqformer"

COMMANDS = {
    "train": "Train a preset, on this machine or under torchrun",
    "chain": "COCO pictures, then videos: both stages of the recipe as one run",
    "eval": "Run weights on videos, score results, draw them",
    "data check": "Is an annotation file sound? --fix writes a mended one",
    "data stats": "Videos, instances, lengths, sizes and classes, with a plot",
    "data split": "Split by video, with every class in every part",
    "data convert": "CVAT, labelme, COCO, DAVIS or MOTS -> YouTube-VIS layout",
    "data export": "Annotations or results -> CVAT or labelme, to correct them",
    "data merge": "Join annotation files into one",
    "data remap": "Rename, join or drop categories",
    "data coco-to-ytvis": "The still images' file of joint training, from COCO's own",
    "report": "An HTML page of a results file: AP, errors, every video",
    "analyse": "What a score is made of: errors, lengths, sizes, intervals",
    "compare": "Is one results file better than another?",
    "export": "A checkpoint's weights as one safetensors file",
    "kernels": "Which implementation of every operator runs on this machine, and why",
    "kernels package": "The operators as a folder that the Hugging Face kernel hub loads",
}
"""The words of a command, which are also the name of its module, and what it does."""
_ON_SEVERAL_PROCESSES = ("train", "chain", "eval")


def main(arguments: Sequence[str]) -> int:
    """Run the command that the first words name.

    Args:
        arguments: the words after `seqformer`.

    Returns: the exit code; 2 where there is no such command.
    """
    words = list(arguments)
    name = " ".join(words[:2])
    if name not in COMMANDS and words[:1] != ["data"]:
        name = "".join(words[:1])
    if name in COMMANDS:
        return run_command(name, words[len(name.split()) :])
    asked = [word for word in words if word not in ("-h", "--help")]
    if asked in ([], ["data"]):
        sys.stdout.write(overview(" ".join(asked)))
        return 0 if len(asked) < len(words) else 2
    if asked == ["--version"]:
        from seqformer import __version__

        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        return 0
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"; did you mean {PROGRAM} {close[0]}?" if close else f"; {PROGRAM} --help lists them"
    sys.stderr.write(f"{PROGRAM}: error: there is no command {name!r}{hint}\n")
    return 2


def run_command(name: str, arguments: Sequence[str], program: str = "") -> int:
    """Import a command and act: its `act` on its `Options`, or its own `main`.

    Args:
        name: one of `COMMANDS`.
        arguments: the words after it.
        program: the command as it was typed; by default `seqformer` and its name.

    Returns: the exit code.
    """
    program, path = program or f"{PROGRAM} {name}", f"seqformer.cli.{module_name(name)}"
    if name in _ON_SEVERAL_PROCESSES:
        with _announced():
            return importlib.import_module(path).main(arguments, program)
    from seqformer.cli.command import run

    command = importlib.import_module(path)
    return run(program, command.Options, command.act, arguments)


def _announced() -> AbstractContextManager[None]:
    """Before anything that takes time, the other processes of the run learn that this one is
    there."""
    if os.environ.get("WORLD_SIZE", "") in ("", "1"):
        return nullcontext()  # nor is anything imported for it
    from seqformer.distributed.environment import launch
    from seqformer.distributed.presence import announced

    return announced(launch())


def module_name(command: str) -> str:
    """Where a command is, below this package: "data.coco_to_ytvis" for "data coco-to-ytvis"."""
    return command.replace(" ", ".").replace("-", "_")


def overview(group: str = "") -> str:
    """The commands, or those of a group, one a line."""
    listed = {name: text for name, text in COMMANDS.items() if name.startswith(group)}
    width = max(map(len, listed))
    lines = "\n".join(f"  {name:{width}}  {text}" for name, text in listed.items())
    first = f"{PROGRAM} {group}".strip()
    return (
        f"usage: {first} COMMAND [options]\n\n{lines}\n\n"
        f"`{PROGRAM} COMMAND --help` explains the options of each.\n"
    )


def console() -> None:
    """The entry point of the installed script, and of `python -m seqformer`."""
    exit_with(PROGRAM, lambda: main(sys.argv[1:]))
