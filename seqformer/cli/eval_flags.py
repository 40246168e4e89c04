"""The options of `eval.py` as flags: those of inference stand among the others."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Annotated

import tyro

from seqformer.cli.command import parse
from seqformer.config import EvalConfig, EvalOptions


@dataclass(frozen=True, kw_only=True)
class _EvalFlags(EvalOptions):
    """The same, with the fields of `network` under their plain names."""

    network: Annotated[EvalConfig, tyro.conf.arg(name="")] = field(default_factory=EvalConfig)
    given: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    address: Annotated[str | None, tyro.conf.Suppress] = None


def parse_flags(arguments: Sequence[str], program: str) -> EvalOptions:
    """The options of a command line; ends the program with a message on any mistake."""
    about = inspect.getdoc(EvalOptions)
    parsed = parse(_EvalFlags, arguments, program, description=about)
    words = {word.partition("=")[0].replace("_", "-") for word in arguments}
    flags = {f.name: "--" + f.name.replace("_", "-") for f in fields(EvalConfig)}
    values = {f.name: getattr(parsed, f.name) for f in fields(EvalOptions)}
    values["given"] = tuple(name for name, flag in flags.items() if flag in words)
    values["address"] = _address(arguments)
    return EvalOptions(**values)


def _address(arguments: Sequence[str]) -> str | None:
    """What stands after --images, if it is a camera or an address: a path would lose a slash."""
    if "--images" not in arguments and not any(w.startswith("--images=") for w in arguments):
        return None
    from seqformer.data.live_address import is_live

    after = [b for a, b in pairwise(arguments) if a == "--images"]
    after += [w.partition("=")[2] for w in arguments if w.startswith("--images=")]
    return after[-1] if is_live(after[-1]) else None
