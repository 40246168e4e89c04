"""macOS and Windows, by construction: what only Linux has is neither imported nor looked up at the
top of a module, and without it everything imports, and inference and scoring run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "triton", "tty")
"""Some system has no such module."""
NAMES = {
    "os": (
        *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "fork", "geteuid", "getpgid"),
        *("getuid", "killpg", "memfd_create", "posix_fadvise", "pread", "pwrite", "setsid"),
        *("register_at_fork", "sched_getaffinity", "statvfs", "sysconf"),
    ),
    "signal": (
        *("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "pthread_sigmask"),
        *("setitimer", "sigwait"),
    ),
}
"""Some system's module has no such name."""
DEVICE_CODE = re.compile(r"\.(triton_\w+|launch\w*|tiles)$")
"""Files of an operator that are imported where Triton is about to run, and only there."""


def at_the_top(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported, but for what a `try` or an `if` guards."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.If | ast.Try):
            continue
        yield node
        yield from at_the_top(node)


def missing_elsewhere(text: str) -> list[str]:
    """What a module's text needs that some system has not."""
    found = []
    for node in at_the_top(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            top = str(node.module).split(".")[0]
            if top in MODULES:
                found.append(top)
            found += [a.name for a in node.names if a.name in NAMES.get(top, ())]
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.attr in NAMES.get(node.value.id, ())
        ):
            found.append(f"{node.value.id}.{node.attr}")
    return found


def test_nothing_at_the_top_of_a_module_needs_linux():
    files = [path for top in ("seqformer", "kernels") for path in (ROOT / top).rglob("*.py")]
    assert len(files) > 100
    for path in files:
        found = missing_elsewhere(path.read_text())
        if DEVICE_CODE.search("." + path.stem) and path.parent.name != "kernels":
            found = [name for name in found if name.split(".")[0] != "triton"]
        assert not found, (path.relative_to(ROOT), found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import fcntl", ["fcntl"]),
        ("from resource import getrusage", ["resource"]),
        ("import triton.language as tl", ["triton.language"]),
        ("import signal\nALL = (signal.SIGTERM, signal.SIGHUP)", ["signal.SIGHUP"]),
        ("import os\nclass A:\n    flags = os.O_CLOEXEC", ["os.O_CLOEXEC"]),
        ("from os import fork", ["fork"]),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", []),
        ("def f():\n    import resource\n    return resource", []),
        ("import os\nif hasattr(os, 'fork'):\n    os.register_at_fork()", []),
    ],
)
def test_every_way_of_needing_linux_is_seen(text, found):
    assert missing_elsewhere(text) == found


def test_without_what_linux_has_inference_and_scoring_run(tmp_path):
    """One process from which all of the above was taken, once the libraries were loaded."""
    code = f"""
import importlib, multiprocessing, os, pkgutil, re, signal, sys
sys.modules["triton"] = None
import cv2, matplotlib.pyplot, multiprocessing.spawn, numpy, scipy.optimize, subprocess, tempfile
import torch, torch.utils.data, torch.distributed.fsdp, torch._dynamo, pycocotools.mask
import torch.distributed.checkpoint.state_dict, multiprocessing.popen_spawn_posix
for name in {MODULES!r}:
    for loaded in [n for n in sys.modules if n.split(".")[0] == name]:
        del sys.modules[loaded]
    sys.modules[name] = None
for module, names in {NAMES!r}.items():
    for name in names:
        vars(sys.modules[module]).pop(name, None)
import kernels, seqformer
for package in (kernels, seqformer):
    for info in pkgutil.walk_packages([package.__path__[0]], package.__name__ + "."):
        needs_triton = info.name.count(".") > 1 and re.search({DEVICE_CODE.pattern!r}, info.name)
        if not needs_triton and "__main__" not in info.name:
            importlib.import_module(info.name)
told = kernels.explain(kernels.ms_deform_attn, torch.zeros(1, 6, 1, 4), [(2, 3)],
                       torch.zeros(1, 2, 1, 1, 1, 2), torch.zeros(1, 2, 1, 1, 1))
assert told.implementation == "torch" and "Linux and macOS" in told.why_not["c"], told
model = seqformer.build_model("resnet_mini", num_classes=2, hidden_dim=32, num_heads=4)
predictor = seqformer.Predictor(model.eval())
prediction = predictor.predict(numpy.zeros((3, 48, 64, 3), numpy.uint8))
assert prediction.frame_size == (48, 64)
from seqformer.evaluation import evaluate
from tests.evaluation.ytvis_problems import annotation, problem, rectangle, result
FULL = [rectangle(2, 3)] * 3
assert evaluate(problem([annotation(FULL)]), [result(FULL)]).stats["AP"] > 0.999
print("ok")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.endswith("ok\n"), done.stderr[-3000:]
