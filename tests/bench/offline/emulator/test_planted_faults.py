"""The test of the tests: faults planted in a copy of the kernels are found by the quick proofs.

Each is a slip that a hand makes, and each compiles. The interpreter and a compiler alone see none
of them but the dropped mask.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from tests.bench.offline.emulator.processes import ROOT, emulate

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


@dataclass(frozen=True)
class Fault:
    """A change of the source, and who must notice it.

    Attributes:
        file: of the package, or a pattern of files.
        pattern, replacement: as `re.sub` takes them.
        proof: a quick one that fails.
        words: what it says, as a pattern.
    """

    file: str
    pattern: str
    replacement: str
    proof: str
    words: str


FAULTS = {
    "dropped mask": Fault(
        file="frame_masks/triton_forward.py",
        pattern=r", mask=\(x < W\) & \(row < rows\)\)",
        replacement=")",
        proof="threshold bytes odd float32",
        words="threshold_kernel.*out of bounds",
    ),
    "swapped stride": Fault(
        file="frame_masks/triton_forward.py",
        pattern=r"top \* w \+ left",
        replacement="top * h + left",
        proof="threshold bytes odd float32",
        words=r"wrong: \d+ bytes differ",
    ),
    "missing lane condition": Fault(
        file="deformable_attention/triton_backward.py",
        pattern=r"owns = exists & \(lane == 0\)",
        replacement="owns = lane == 0",
        proof="msda inputs 2 bytes off bfloat16 D32",
        words="backward_kernel.*race within a warp",
    ),
    "missing barrier": Fault(
        file="deformable_attention/triton_backward.py",
        pattern=r"tl\.debug_barrier\(\)",
        replacement="pass",
        proof="msda wide heads, 9 queries float32 D256",
        words="backward_kernel.*race within a block",
    ),
    "records beyond the end": Fault(
        file="deformable_attention/triton_merged.py",
        pattern=r"owns = exists & \(lane == 0\)",
        replacement="owns = lane == 0",
        proof="msda merged, encoder points float32 D32",
        words="merge_kernel.*race",
    ),
    "forgotten rank": Fault(
        file="deformable_attention/triton_sort.py",
        pattern=r"mask=exists, other=0\) \+ rank",
        replacement="mask=exists, other=0)",
        proof="msda merged, encoder points float32 D32",
        words="scatter_kernel.*race",
    ),
    "renamed argument": Fault(
        file="frame_masks/*.py",
        pattern=r"\blogits\b",
        replacement="params",
        proof="threshold bytes odd float32",
        words="TypeError",
    ),
    "sums in any order": Fault(
        file="deformable_attention/launch.py",
        pattern=r"needs_value and torch\.are_deterministic_algorithms_enabled\(\)",
        replacement="False",
        proof="same bits in 10 orders, msda kind 2 float32",
        words=r"wrong: order \d changes result",
    ),
    "unaligned view": Fault(
        file="launch.py",
        pattern=r"return tensor\.clone\(\) if tensor\.data_ptr\(\) % ALIGNMENT else tensor",
        replacement="return tensor",
        proof="msda inputs 2 bytes off bfloat16 D32",
        words="forward_kernel.*misaligned",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name, tmp_path):
    fault = FAULTS[name]
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    number = 0
    for path in (tmp_path / "kernels").glob(fault.file):
        changed, times = re.subn(fault.pattern, fault.replacement, path.read_text())
        path.write_text(changed)
        number += times
    assert number, f"{fault.pattern} is no longer in {fault.file}: plant the fault elsewhere"
    run = emulate(tmp_path, "--quick", "--capability", "80", "--only", fault.proof, folder=tmp_path)
    assert run.code == 1 and run.rows, run.output
    (row,) = run.rows
    assert row["fault"] and re.search(fault.words, row["fault"], re.DOTALL), row["fault"]
    assert run.last_line.endswith("1 faults")
