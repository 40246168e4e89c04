"""What proofs must launch: every kernel of the package, in every form that the model asks for."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import kernels
from bench.compile import all_cases
from bench.offline.emulator.driver import kernel_name
from bench.offline.emulator.session import LaunchRecord
from bench.offline.kernel_source import source_of, without_docstrings
from bench.offline.stand_in import jit_functions
from kernels.deformable_attention import tiles as attention_tiles
from kernels.launch import entry_for
from kernels.mask_head import tiles as mask_tiles
from kernels.mask_loss import tiles as loss_tiles


@lru_cache(maxsize=1)
def launched_kernels() -> frozenset[str]:
    """Names of those that a launcher or a compiler launches: they alone end in `_kernel`."""
    return frozenset(kernel_name(f) for f in jit_functions() if f.fn.__name__.endswith("_kernel"))


def covered_forms(capability: int, launches: Iterable[LaunchRecord]) -> list[str]:
    """Forms of the launch tables, of the model's own sizes, that a launch had on this GPU."""
    launched: dict[str, list[LaunchRecord]] = {}
    for launch in {launch.key: launch for launch in launches}.values():
        launched.setdefault(launch.kernel, []).append(launch)
    return [
        case.name
        for case in model_forms(capability)
        if any(
            _is_of(case.variant, launch)
            for launch in launched.get(kernel_name(case.variant.kernel), ())
        )
    ]


def model_forms(capability: int) -> list[Any]:
    """Entries of the launch tables for the model's own sizes."""
    return [case for case in all_cases(capability) if case.is_model]


@lru_cache(maxsize=1)
def code_digests() -> dict[str, str]:
    """Kernel -> digest of its code and of all that it calls."""
    return {
        kernel_name(f): hashlib.sha256(source_of(f).encode()).hexdigest()[:16]
        for f in jit_functions()
        if kernel_name(f) in launched_kernels()
    }


@lru_cache
def launch_digest(capability: int) -> str:
    """Of what decides how a kernel is launched on this GPU: the launchers' code, and its entries of
    the launch tables."""
    parts = []
    for path in sorted(Path(kernels.__path__[0]).rglob("launch*.py")):
        parts.append(ast.unparse(without_docstrings(ast.parse(path.read_text(encoding="utf-8")))))
    for tiles in (attention_tiles, mask_tiles, loss_tiles):
        for name, value in sorted(vars(tiles).items()):
            if name.isupper() and not name.startswith("INTERPRETER"):
                entry = entry_for(value, capability) if isinstance(value, dict) else value
                parts.append(f"{tiles.__name__}.{name}: {entry!r}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_of(variant: Any, launch: LaunchRecord) -> bool:
    """Whether a launch had this form: its constants, and its types of the first tensors (the rest
    are stand-ins where they are not used)."""
    first = next(iter(launch.types))
    return launch.types[first] == variant.types[first] and all(
        launch.constants.get(name) == value for name, value in variant.constants.items()
    )
