"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALLOWED = {
    "kernels": set(),
    "seqformer/backend_choice.py": {"_kernels", "config"},
    "seqformer/boxes.py": set(),
    "seqformer/command.py": {"files"},
    "seqformer/distributed": {"command", "devices"},
    "seqformer/distributed/environment.py": set(),
    "seqformer/distributed/presence.py": {"distributed.environment"},
    "seqformer/files.py": set(),
    "seqformer/processes.py": {"command"},
    "seqformer/config": set(),
    "seqformer/determinism.py": set(),
    "seqformer/devices.py": set(),
    "seqformer/safe_files.py": set(),
    "seqformer/structures.py": set(),
    "seqformer/annotations": {"safe_files", "files", "processes"},
    "seqformer/_c_library.py": set(),
    "seqformer/evaluation": {"_c_library", "annotations", "config", "safe_files"},
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
    "seqformer/export": {"_kernels", "structures", "config", "files", "model", "safe_files"},
    "seqformer/inference": {
        "seqformer",
        "backend_choice",
        "export",
        "model",
        "data",
        "structures",
        "boxes",
        "config",
        "determinism",
        "devices",
        "evaluation",
        "report",
        "visualization",
        "annotations",
        "safe_files",
        "command",
        "distributed",
        "files",
        "processes",
    },
    "seqformer/visualization": {
        "annotations",
        "data.video_sources",
        "evaluation.track_iou",
        "files",
    },
    "seqformer/tools": {
        "data",
        "evaluation",
        "report",
        "annotations",
        "safe_files",
        "files",
        "former",
    },
    "seqformer/former.py": {"cli", "command"},
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
        "visualization",
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


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name; a package is its `__init__.py`."""
    found = {}
    for top in ("kernels", "seqformer", "bench"):
        for path in (ROOT / top).rglob("*.py"):
            *folders, name = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(folders if name == "__init__" else [*folders, name])] = path
    return found


def needed(path: Path, known: Collection[str]) -> set[str]:
    """Modules of ours that a file names, in functions and for annotations, too."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            inner = {f"{module}.{alias.name}" for alias in node.names}
            names |= (inner & known) or {module}
    return names & known


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Modules that need one another in a circle, the first one again at the end; else empty."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_needs_itself():
    known = modules()
    graph = {name: needed(path, known.keys()) - {name} for name, path in known.items()}
    assert sum(map(len, graph.values())) > len(graph)
    assert not cycle_in(graph)


@pytest.mark.parametrize(
    "text",
    [
        "from kernels import launch",
        "def f():\n    from .launch import Launch",
        "if TYPE_CHECKING:\n    import kernels.launch",
    ],
)
def test_every_way_of_needing_counts(text, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "kernels" / "device.py"
    path.parent.mkdir()
    path.write_text(text)
    needs = needed(path, modules().keys() | {"kernels.launch"})
    assert needs == {"kernels.launch"}
    assert cycle_in({"kernels.device": needs, "kernels.launch": {"kernels.device"}})
