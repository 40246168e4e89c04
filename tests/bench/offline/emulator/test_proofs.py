"""`python -m bench.emulate`: every kernel's compiled code runs, and is right.

The quick proofs take about a minute a GPU, nearly all of it in Triton's compiler; the marked tests
run everything the model launches, on eight GPUs.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec

import pytest

from tests.bench.offline.emulator.processes import ROOT, Run, emulate

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="needs triton"),
    pytest.mark.timeout(1800),  # the first test waits for all proofs, on a machine that may be busy
]

CAPABILITIES = (75, 90)
"""Without and with bfloat16 arithmetic and vector reductions; the planted faults run on 80."""


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Run:
    capabilities = [str(capability) for capability in CAPABILITIES]
    folder = tmp_path_factory.mktemp("emulated")
    return emulate(folder, "--quick", "--capability", *capabilities)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_quick_proofs_hold(quick, capability):
    assert quick.record, quick.output
    rows = [row for row in quick.rows if row["capability"] == capability]
    assert rows and not [row for row in rows if row["fault"]], quick.output
    # train.py and eval.py themselves are among them.
    launches = {row["name"]: sum(row["launches"].values()) for row in rows}
    assert launches["train.py fp32"] > 20 and launches["eval.py fp32"] > 10


def test_every_kernel_of_the_source_is_launched(quick):
    """The set of kernels, found in the source without the help of the emulator."""
    launched = {kernel for row in quick.rows for kernel in row["launches"]}
    assert launched == kernels_of_the_source() and not quick.record["extra"]["missing"]


def test_record_and_last_line(quick):
    record = quick.record
    assert record["part"] == "emulated" and record["schema"] == 1
    assert record["machine"]["emulated"] == list(CAPABILITIES) and record["machine"]["commit"]
    total = sum(sum(row["launches"].values()) for row in record["cases"])
    number = len(kernels_of_the_source())
    assert quick.last_line.endswith(f"{total} launches of {number} kernels, 0 faults")
    assert quick.code == 0
    for row in record["cases"]:
        if row["launches"]:
            assert row["instructions"] > 0 and row["variants"].keys() == row["launches"].keys()


def test_names_that_match_nothing(tmp_path):
    run = emulate(tmp_path, "--only", "no such proof")
    assert run.code == 2 and "no proof's name contains" in run.output


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_everything_the_model_launches_holds_on_eight_gpus(tmp_path):
    run = emulate(tmp_path)
    assert run.code == 0, run.output


def kernels_of_the_source() -> set[str]:
    """Functions under `triton.jit` called `..._kernel`, as all are that no other one names: folder
    and name."""
    jitted: dict[str, tuple[str, set[str]]] = {}
    for path in (ROOT / "kernels").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(
                "triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list
            ):
                read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                jitted[f"{path.parent.name}.{node.name}"] = (node.name, read)
    named = set().union(*(read for _, read in jitted.values()))
    assert all(short.endswith("_kernel") for short, _ in jitted.values() if short not in named)
    return {name for name, (short, _) in jitted.items() if short.endswith("_kernel")}
