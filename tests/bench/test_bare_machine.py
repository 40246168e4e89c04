"""What `bench.gpu` needs on a machine with torch, triton, numpy and einops only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABSENT = frozenset(
    {"PIL", "av", "cv2", "hypothesis", "jinja2", "matplotlib", "orjson", "pycocotools"}
    | {"pytest", "safetensors", "scipy", "supervision", "tensorboard", "tqdm", "tyro"}
)
PRELUDE = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(ABSENT)!r}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code], cwd=ROOT, capture_output=True, text=True
    )


def test_the_suite_declares_its_cases():
    """Kernels, blocks and models at least; a module that needs more is named, not fatal."""
    done = run("""
import kernels, seqformer.criterion, seqformer.model
import bench.suite.schema, bench.suite.ceilings, bench.suite.checks, bench.suite.record
from bench import gpu
NEEDED = {"msda", "mask_head", "frame_masks", "blocks", "training", "inference", "growth"}
for part in gpu.PARTS:
    cases, unavailable = gpu.cases_of(part, "gpu")
    assert cases and not NEEDED & set(unavailable)
    for case in cases:
        if case.group in ("kernels", "blocks"):
            [side.available for side in case.sides]
print(sorted({case.op for part in gpu.PARTS for case in gpu.cases_of(part, "gpu")[0]}))
""")
    assert done.returncode == 0, done.stderr
    for op in ("msda encoder", "mask losses", "draw masks", "encoder layer", "criterion"):
        assert op in done.stdout


def test_blocks_run_and_agree():
    """Those that need SciPy are not available there."""
    done = run("""
import torch
from bench.suite.schema import check_agreement
from bench.suite.cases import all_cases
cpu = torch.device("cpu")
for case in all_cases("smoke", ("frame_masks", "blocks")):
    calls = {side.name: side.build(cpu) for side in case.sides_on(cpu)}
    assert bool(calls) == (case.op not in ("criterion", "matcher", "run lengths")), case.name
    if calls:
        check_agreement(case, {name: call() for name, call in calls.items()})
""")
    assert done.returncode == 0, done.stderr


def test_training_and_inference_run_and_agree():
    """With an assignment that stands for SciPy's."""
    done = run("""
import torch
from bench.suite.assignment import SOLVER
from bench.suite.schema import check_agreement
from bench.suite.cases import all_cases
assert SOLVER == "fixed"
cpu = torch.device("cpu")
for case in all_cases("smoke", ("training", "inference")):
    calls = {side.name: side.build(cpu) for side in case.sides_on(cpu)}
    assert {"ours", "published"} <= set(calls), case.name
    check_agreement(case, {name: call() for name, call in calls.items()})
""")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["safetensors", "scipy"])
def test_hidden_packages_are_absent(name):
    assert "ModuleNotFoundError" in run(f"import {name}").stderr
