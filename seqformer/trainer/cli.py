"""`train.py PRESET [--field value ...]`: a preset, every field of which can be overridden.

Imports neither torch nor the model, so that `--help` and typing errors answer at once.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import NoReturn

import tyro

from seqformer.command import Command, end_if_asked
from seqformer.config import DemoConfig, TrainConfig, presets

PROGRAM = "train.py"


def run(argv: Sequence[str]) -> int:
    """Parse and train. Returns: the exit code; what the user can mend is one sentence and 1."""
    config = parse(argv)
    hint = "--resume goes on from the last checkpoint"
    command = Command(PROGRAM, error_code=1, hint=hint)
    command.folder = config.output
    return command.run(lambda: _train(config), _expected)


def _train(config: TrainConfig) -> None:
    # Imported only now: torch takes seconds, and --help must not wait for it.
    from seqformer.trainer.parallel import rank_from_environment
    from seqformer.trainer.progress import setup_logging
    from seqformer.trainer.trainer import train

    end_if_asked()
    setup_logging(is_main=rank_from_environment() == 0)
    if isinstance(config, DemoConfig):
        from seqformer.trainer.demo import run_demo

        run_demo(config)
    else:
        train(config)


def _expected() -> tuple[type[BaseException], ...]:
    """Errors whose message is written for the user."""
    from seqformer.distributed import LostProcessError
    from seqformer.trainer.bad_steps import NonFiniteLossError
    from seqformer.trainer.errors import DataError, MemoryShortageError, SetupError

    return SetupError, NonFiniteLossError, DataError, MemoryShortageError, LostProcessError


def parse(argv: Sequence[str]) -> TrainConfig:
    """The resolved config; ends the program with a message on any mistake."""
    known = presets()
    overview = _overview({name: text for name, (text, _) in known.items()})
    if not argv:
        fail(f"name a preset\n\n{overview}", code=2)
    name, *rest = argv
    if name in ("-h", "--help"):
        print(overview)
        sys.exit(0)
    if name not in known:
        if name.startswith("-"):
            fail(f"the preset comes first, before {name}\n\n{overview}", code=2)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        fail(f"there is no preset {name!r}{hint}\n\n{overview}", code=2)
    text, default = known[name]
    return tyro.cli(
        type(default), prog=f"{PROGRAM} {name}", description=text, default=default, args=rest
    )


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what is wrong on stderr and end the program."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    sys.exit(code)


def _overview(descriptions: dict[str, str]) -> str:
    width = max(map(len, descriptions))
    lines = "\n".join(f"  {name:{width}}  {text}" for name, text in descriptions.items())
    return (
        f"usage: {PROGRAM} PRESET [--field value ...]\n\npresets:\n{lines}\n\n"
        f"`{PROGRAM} PRESET --help` lists every field with its meaning and default."
    )
