"""`seqformer train`, which `train.py` is too: a preset, every field of which can be overridden.

Imports neither torch nor the model, so that `--help` and typing errors answer at once.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, NoReturn

import tyro

from seqformer.cli.command import parse as parse_options
from seqformer.cli.threads import wait_briefly
from seqformer.command import Command, end_if_asked
from seqformer.config import (
    CheckpointConfig,
    ComputeConfig,
    DemoConfig,
    LoggingConfig,
    ParallelConfig,
    StartConfig,
    TrainConfig,
    TuningConfig,
    presets,
)
from seqformer.distributed.environment import launch

_PLAIN = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class _TrainFlags(TrainConfig):
    """The same, with the options of the groups under their plain names."""

    start: Annotated[StartConfig, _PLAIN] = field(default_factory=StartConfig)
    distributed: Annotated[ParallelConfig, _PLAIN] = field(default_factory=ParallelConfig)
    compute: Annotated[ComputeConfig, _PLAIN] = field(default_factory=ComputeConfig)
    checkpoint: Annotated[CheckpointConfig, _PLAIN] = field(default_factory=CheckpointConfig)
    logging: Annotated[LoggingConfig, _PLAIN] = field(default_factory=LoggingConfig)
    tuning: Annotated[TuningConfig, _PLAIN] = field(default_factory=TuningConfig)


@dataclass(frozen=True, kw_only=True)
class _DemoFlags(DemoConfig, _TrainFlags):
    """Likewise for the demo."""


def _values(config: TrainConfig) -> dict[str, Any]:
    return {one.name: getattr(config, one.name) for one in fields(config)}


def main(arguments: Sequence[str], program: str = "train.py") -> int:
    """Parse and train. Returns: the exit code; what the user can mend is one sentence and 1."""
    config = parse(arguments, program)
    hint = "--resume goes on from the last checkpoint"
    command = Command(program, error_code=1, hint=hint)
    command.folder = config.output
    return command.run(lambda: _train(config), expected_errors)


def _train(config: TrainConfig) -> None:
    # Imported only now: torch takes seconds, and --help must not wait for it.
    wait_briefly()
    from seqformer.trainer.terminal import setup_logging
    from seqformer.trainer.trainer import train

    end_if_asked()
    setup_logging(is_main=launch().rank == 0)
    if isinstance(config, DemoConfig):
        from seqformer.trainer.demo import run_demo

        run_demo(config)
    else:
        train(config)


def expected_errors() -> tuple[type[BaseException], ...]:
    """Errors whose message is written for the user."""
    from seqformer.distributed.errors import LostProcessError
    from seqformer.trainer.errors import DataError, MemoryShortageError, SetupError
    from seqformer.trainer.nonfinite_steps import NonFiniteLossError

    return SetupError, NonFiniteLossError, DataError, MemoryShortageError, LostProcessError


def parse(argv: Sequence[str], program: str = "train.py") -> TrainConfig:
    """The resolved config; ends the program with a message on any mistake."""
    known = presets()
    overview = _overview({name: text for name, (text, _) in known.items()}, program)
    if not argv:
        fail(f"name a preset\n\n{overview}", program)
    name, *rest = argv
    if name in ("-h", "--help"):
        print(overview)
        sys.exit(0)
    if name not in known:
        if name.startswith("-"):
            fail(f"the preset comes first, before {name}\n\n{overview}", program)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        fail(f"there is no preset {name!r}{hint}\n\n{overview}", program)
    text, default = known[name]
    return changed(default, rest, f"{program} {name}", text)


def changed(
    default: TrainConfig, words: Sequence[str], program: str, description: str = ""
) -> TrainConfig:
    """A config with the options of a command line; ends the program on any mistake.

    Args:
        default: what is not given.
        words: the options.
        program: the command as it was typed.
        description: for its `--help`.
    """
    flags = _DemoFlags if isinstance(default, DemoConfig) else _TrainFlags
    shown = flags(**_values(default))
    words = _spelled_out(words)
    given = parse_options(flags, words, program, description=description, default=shown)
    return type(default)(**_values(given))


def _spelled_out(arguments: Sequence[str]) -> list[str]:
    """`--compile` alone means `--compile model`; `--freeze a,b --freeze c` is `--freeze a b c`."""
    words = _with_joined_parts(list(arguments), "--freeze")
    for place in reversed([i for i, word in enumerate(words) if word == "--compile"]):
        if place + 1 == len(words) or words[place + 1].startswith("-"):
            words.insert(place + 1, "model")
    return words


def _with_joined_parts(words: list[str], option: str) -> list[str]:
    """Every occurrence of an option of several words as one, and commas as spaces."""
    kept: list[str] = []
    parts: list[str] = []
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name != option:
            kept.append(word)
            continue
        given = [value] if equals else []
        while not equals and words and not words[0].startswith("-"):
            given.append(words.pop(0))
        if not given:
            return [*kept, word, *words]  # the parser says what is missing
        parts += [part for one in given for part in one.split(",") if part]
    return [*kept, option, *dict.fromkeys(parts)] if parts else kept


def fail(message: str, program: str) -> NoReturn:
    """Say what is wrong on stderr and end the program with exit code 2."""
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(2)


def _overview(descriptions: dict[str, str], program: str) -> str:
    width = max(map(len, descriptions))
    lines = "\n".join(f"  {name:{width}}  {text}" for name, text in descriptions.items())
    return (
        f"usage: {program} PRESET [--field value ...]\n\npresets:\n{lines}\n\n"
        f"`{program} PRESET --help` lists every field with its meaning and default."
    )
