"""The operators as a folder for the Hugging Face kernel hub.

seqformer kernels package seqformer-kernels
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the operators as a kernel of the hub: nothing to build, one copy per backend."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder to write; it must not exist, or be empty."""
    name: str = "seqformer-kernels"
    """Of the kernel: lower-case letters, digits and dashes."""
    version: int = 1
    """Of the kernel, the number that `get_kernel(..., version=1)` asks for."""


def act(options: Options) -> None:
    """The command."""
    from seqformer.tools.kernel_package import write_package

    variants = write_package(options.folder, options.name, options.version)
    sys.stdout.write(f"{options.folder}: {', '.join(variants)}\n")
