"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALLOWED = {
    "kernels": set(),
    "seqformer/boxes.py": set(),
    "seqformer/command.py": {"files"},
    "seqformer/distributed.py": set(),
    "seqformer/files.py": set(),
    "seqformer/processes.py": {"command"},
    "seqformer/config": set(),
    "seqformer/determinism.py": set(),
    "seqformer/devices.py": set(),
    "seqformer/safe_files.py": set(),
    "seqformer/structures.py": set(),
    "seqformer/annotations": {"safe_files", "files"},
    "seqformer/evaluation": {"annotations", "config", "safe_files"},
    "seqformer/data": {
        "structures",
        "boxes",
        "config",
        "annotations",
        "safe_files",
        "command",
        "files",
        "processes",
    },
    "seqformer/model": {"_kernels", "structures", "config", "files", "safe_files"},
    "seqformer/criterion": {"structures", "boxes", "config", "devices", "model.masks"},
    "seqformer/report": {"config", "data", "evaluation", "annotations", "safe_files", "files"},
    "seqformer/inference": {
        "model",
        "data",
        "structures",
        "boxes",
        "config",
        "determinism",
        "devices",
        "evaluation",
        "report",
        "annotations",
        "safe_files",
        "command",
        "distributed",
        "files",
        "processes",
    },
    "seqformer/tools": {
        "data",
        "evaluation",
        "report",
        "annotations",
        "safe_files",
        "files",
    },
    "seqformer/cli": {
        "seqformer",
        "_kernels",
        "command",
        "config",
        "data",
        "distributed",
        "evaluation",
        "inference",
        "report",
        "tools",
        "trainer",
    },
}
"""Folder or file -> what of `seqformer` it may import (its own folder is always allowed)."""


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, relative ones resolved."""
    names = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            names |= {module} if node.module else {f"{module}.{a.name}" for a in node.names}
    return names


@pytest.mark.parametrize("place", ALLOWED)
def test_imports_point_one_way(place):
    path = ROOT / place
    files = [path] if path.suffix else sorted(path.rglob("*.py"))
    assert files
    own = place.removesuffix(".py").replace("/", ".")
    for file in files:
        for name in imported(file):
            if not name.startswith(("seqformer", "bench", "train", "eval.")) or name == own:
                continue
            inner = name.removeprefix("seqformer.")
            allowed = name.startswith(own + ".") or any(
                inner == a or inner.startswith(a + ".") for a in ALLOWED[place]
            )
            assert allowed, f"{file.relative_to(ROOT)} imports {name}"


def test_only_the_commands_and_the_benchmarks_import_the_trainer():
    for file in ROOT.rglob("*.py"):
        place = file.relative_to(ROOT).as_posix()
        if place.startswith(("seqformer/trainer/", "seqformer/cli/", "tests/", "bench/", ".")):
            continue
        if place.startswith(("build/", "runs/")) or "venv" in place:
            continue
        assert not any(n.startswith("seqformer.trainer") for n in imported(file)), place
