"""Processes that emulate: the tests' own has loaded the kernels for Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[4]


@dataclass(frozen=True)
class Run:
    """What a run of `python -m bench.emulate` said.

    Attributes:
        code: exit status.
        record: as written; {} without one.
        output: everything that was printed.
    """

    code: int
    record: dict[str, Any]
    output: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.record["cases"]

    @property
    def last_line(self) -> str:
        return self.output.strip().rpartition("\n")[2]


def start(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A Python process that compiles kernels; `folder` is where it finds the package `kernels`."""
    removed = ("SEQFORMER_KERNELS_BACKEND", "PYTEST_ADDOPTS")
    environment = {k: v for k, v in os.environ.items() if k not in removed}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def emulate(tmp_path: Path, *arguments: str, folder: Path = ROOT) -> Run:
    """`python -m bench.emulate` with these arguments."""
    record = tmp_path / "record.json"
    done = start("-m", "bench.emulate", "--output", str(record), *arguments, folder=folder)
    found = json.loads(record.read_text()) if record.exists() else {}
    return Run(done.returncode, found, done.stdout)
