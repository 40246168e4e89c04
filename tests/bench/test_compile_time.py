"""What Triton's compiler takes stays within its limits, by the size of the code that it is given.

An estimate is the same on every machine, however busy; it takes five seconds. Times themselves are
measured by `python -m bench.compile_time`, whose record is committed.
"""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from bench.compile_time import CAPABILITIES, FORM_LIMIT, STEP_LIMIT, Row, show, size_of
from tests.bench.offline.emulator.processes import start

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

STEP = {
    "msda forward float32 locations": 0,
    "msda forward float32 points": 2,
    "msda forward float32 boxes": 1,
    "msda backward float32 points reference": 1,
    "msda backward float32 boxes": 1,
    "msda merged count float32 points": 1,
    "msda merged offset float32 points": 1,
    "msda merged scatter float32 points": 1,
    "msda merged adds float32 points": 1,
    "msda merged softmax float32 points": 1,
    "mask loss float32": 1,
    "mask loss gradient float32": 1,
    "mask gradients float32 C8 D8 F1 of 3 layers": 1,
    "mask sum float32": 1,
}
"""How many of each form a first training step in float32 compiles."""


@pytest.fixture(scope="module")
def estimates(tmp_path_factory):
    path = tmp_path_factory.mktemp("estimates") / "record.json"
    arguments = ("--part", "estimate", "--only", "float32", "--output", str(path))
    done = start("-m", "bench.compile_time", *arguments)
    assert done.returncode == 0, done.stdout
    record = json.loads(path.read_text())
    assert record["part"] == "emulated-compile-time"
    assert record["machine"]["emulated"] == list(CAPABILITIES)
    return {(row["name"], row["capability"]): row["seconds"] for row in record["extra"]["rows"]}


def test_every_form_compiles_within_its_limit(estimates):
    assert len(estimates) >= 2 * 16
    for form, seconds in estimates.items():
        assert 0 < seconds <= FORM_LIMIT, f"{form}: about {seconds:.1f} CPU seconds"


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_first_step_compiles_within_its_limit(estimates, capability):
    total = sum(number * estimates[name, capability] for name, number in STEP.items())
    assert 5 < total <= STEP_LIMIT, f"about {total:.1f} CPU seconds"


def test_size_of_code():
    code = """
module {
  tt.func public @kernel(%a: !tt.ptr<f32>) {
    %0 = tt.splat %a : !tt.ptr<f32> -> tensor<32x!tt.ptr<f32>>
    %1 = tt.load %a : !tt.ptr<f32>
    %2:2 = scf.for %i = %c0 to %c1 step %c1 iter_args(%b = %0) -> (tensor<32xf32>)  : i32 {
      %3 = tt.load %0, %m : tensor<32x!tt.ptr<f32>>
      tt.store %b, %3 : tensor<32x!tt.ptr<f32>>
      %4 = tt.atomic_rmw fadd, relaxed, gpu, %0, %3, %m : (tensor<32x!tt.ptr<f32>>) -> f32
      scf.yield %3 : tensor<32xf32>
    }
    tt.store %0, %3 : tensor<32x!tt.ptr<f32>>
    tt.return
  }
}
"""
    operations, accesses = size_of(code)
    assert (operations, accesses) == (10, 3), "the address that the loop carries costs no walk"


def test_rows_over_their_limit_are_told():
    slow = Row(name="a form", capability=80, part="form", seconds=FORM_LIMIT + 0.1)
    step = Row(name="a step", capability=80, part="step total", seconds=FORM_LIMIT + 0.1)
    assert slow.is_slow and "more than 5" in show(slow)
    assert not step.is_slow and "more" not in show(step)
