"""The least time a GPU needs for a case: peaks of GPUs, and floors by what may bind.

A floor is a lower bound under the stated peaks, not a prediction. Kinds:

- *memory*: bytes over bandwidth, each input and output moved once.
- *arithmetic*: operations over peak rates. Products that tensor cores can take count at their rate
  in half precision, at that of TF32 in float32 where the GPU has it, everything else at the float32
  rate.
- *l1 gather*, *issue*, *atomics*: of deformable attention alone, whose 64 corner vectors a row come
  from L1, whose index arithmetic fills issue slots, and whose backward pass adds floats in L2.
  Instructions per row are read from the compiled table of the GPU's own target.

Numbers marked [A] are assumed until somebody measures them: ceilings that `bench.gpu` measured on a
device replace those of L1 and of atomics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "results" / "compile.json"
HALF = ("float16", "bfloat16")
CORNERS = 4


@dataclass(frozen=True, kw_only=True)
class Device:
    """Peaks of a GPU, as its maker states them; operations count multiply and add as two.

    Attributes:
        name: on the page.
        pattern: regular expression that the hardware's own name matches.
        target: compile target whose instruction counts stand for it.
        bandwidth: bytes per second of device memory.
        float32, tf32, half: operations per second; tf32 and half on tensor cores, dense.
        has_bfloat16: whether bfloat16 is native.
        multiprocessors, clock: number, and cycles per second at the highest boost.
        l2_slices: that take additions side by side [A].
    """

    name: str
    pattern: str
    target: str
    bandwidth: float
    float32: float
    tf32: float
    half: float
    has_bfloat16: bool = True
    multiprocessors: int
    clock: float
    l2_slices: int


L1_BYTES = 128  # [A] per clock and multiprocessor
ISSUE = 4  # warp instructions per clock and multiprocessor: one per scheduler
ATOMICS = 8  # [A] float32 additions per clock and L2 slice

_AMPERE: dict[str, Any] = {
    # NVIDIA A100 Tensor Core GPU data sheet: 19.5 / 156 / 312 TFLOP/s, 108 SMs, 1410 MHz boost.
    "target": "80",
    "float32": 19.5e12,
    "tf32": 156e12,
    "half": 312e12,
    "multiprocessors": 108,
    "clock": 1.41e9,
    "l2_slices": 80,
}
_HOPPER: dict[str, Any] = {
    # NVIDIA H100 and H200 data sheets, SXM: 67 / 494.5 / 989.5 TFLOP/s (dense: half of the figure
    # with sparsity), 132 SMs; 1980 MHz is the clock that 67 TFLOP/s stand for.
    "target": "90",
    "float32": 67e12,
    "tf32": 494.5e12,
    "half": 989.5e12,
    "multiprocessors": 132,
    "clock": 1.98e9,
    "l2_slices": 96,
}
DEVICES = (
    Device(
        # NVIDIA V100 data sheet, SXM2: 900 GB/s, 15.7 and 125 TFLOP/s, 80 SMs, 1530 MHz boost.
        # Its code cannot be disassembled here; that of sm_75, the next GPU, stands for it [A].
        name="V100 SXM2 (16 or 32 GB)",
        pattern=r"V100-SXM2",
        target="75",
        bandwidth=900e9,
        float32=15.7e12,
        tf32=15.7e12,
        half=125e12,
        has_bfloat16=False,
        multiprocessors=80,
        clock=1.53e9,
        l2_slices=64,
    ),
    Device(name="A100 SXM4 40 GB", pattern=r"A100-SXM4-40GB", bandwidth=1555e9, **_AMPERE),
    Device(name="A100 SXM4 80 GB", pattern=r"A100-SXM4-80GB", bandwidth=2039e9, **_AMPERE),
    Device(name="H100 SXM", pattern=r"H100 80GB HBM3|H100.*SXM", bandwidth=3.35e12, **_HOPPER),
    Device(name="H200", pattern=r"H200", bandwidth=4.8e12, **_HOPPER),
)


@dataclass(frozen=True)
class Floor:
    """Seconds by kind."""

    parts: dict[str, float]

    @property
    def kind(self) -> str:
        """What binds."""
        return max(self.parts, key=self.parts.__getitem__)

    @property
    def seconds(self) -> float:
        return self.parts[self.kind]


def device_named(name: str) -> Device | None:
    """The peaks of a GPU by the hardware's own name; None for one that is not listed."""
    return next((d for d in DEVICES if re.search(d.pattern, name)), None)


def runs_on(row: Mapping[str, Any], device: Device) -> bool:
    """Whether the case's format is native there."""
    return row["dtype"] != "bfloat16" or device.has_bfloat16


def floors(
    row: Mapping[str, Any], device: Device, ceilings: Mapping[str, float] | None = None
) -> Floor | None:
    """Least seconds of a case.

    Args:
        row: of a record, or a declared case in the same form.
        ceilings: of `bench.suite.ceilings`, where they were measured on the device.

    Returns: None where the case states neither bytes nor operations.
    """
    parts = {}
    if row["bytes"]:
        parts["memory"] = row["bytes"] / device.bandwidth
    if row["flops"]:
        parts["arithmetic"] = _arithmetic(row, device)
    if row["op"].startswith("msda") and (count := attention_rows(row["shapes"])):
        parts |= _attention(row, count, device, ceilings or {})
    return Floor(parts) if parts else None


def _arithmetic(row: Mapping[str, Any], device: Device) -> float:
    on_tensor_cores = row["half_flops"] or 0
    rate = device.half if row["dtype"] in HALF else device.tf32
    return on_tensor_cores / rate + (row["flops"] - on_tensor_cores) / device.float32


def attention_rows(shapes: Mapping[str, int]) -> int | None:
    """(frame, query, head) triples of a deformable attention call; None if shapes do not tell.

    Queries are Q, or the tokens S of an encoder layer; frames are B clips of T.
    """
    queries = shapes.get("Q", shapes.get("S"))
    if queries is None or "M" not in shapes:
        return None
    return shapes.get("B", 1) * shapes.get("T", 1) * queries * shapes["M"]


def _attention(
    row: Mapping[str, Any], count: int, device: Device, ceilings: Mapping[str, float]
) -> dict[str, float]:
    shapes, dtype = row["shapes"], row["dtype"]
    channels = shapes.get("D") or shapes.get("C", 256) // shapes["M"]
    corners = count * shapes.get("L", 4) * shapes.get("P", 4) * CORNERS
    gathers_of = {"forward": 1, "backward": 1, "both": 2}
    gather = gathers_of.get(row["direction"], 1) * corners * channels * (2 if dtype in HALF else 4)
    l1 = ceilings.get("l1_gather_gb_s", 0) * 1e9
    parts = {"l1 gather": gather / (l1 or L1_BYTES * device.multiprocessors * device.clock)}
    passes = [d for d in ("forward", "backward") if row["direction"] in (d, "both")]
    per_row = [instructions_per_row(device.target, d, dtype) for d in passes]
    if per_row and all(per_row):
        slots = ISSUE * device.multiprocessors * device.clock
        parts["issue"] = count * sum(x for x in per_row if x) / slots
    if "backward" in passes:
        adds = ceilings.get("float_adds_g_s", 0) * 1e9
        parts["atomics"] = corners * channels / (adds or ATOMICS * device.l2_slices * device.clock)
    return parts


def instructions_per_row(target: str, direction: str, dtype: str) -> float | None:
    """Warp instructions that the compiled kernel executes per row, with point references."""
    return _compiled().get((f"msda {direction} {dtype} points", target))


@cache
def _compiled() -> dict[tuple[str, str], float]:
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
    return {(r["case"], r["target"]): r["per_row"] for r in rows if r.get("per_row")}
