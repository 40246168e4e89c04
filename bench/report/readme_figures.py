"""The measured figures, each as a question to the records.

All stand in the report, the headlines in the README. A row is a claim, the command that measures
it, and a text with the figures filled in. Figures come from the newest CPU record that has the
case; a row whose cases nobody has measured is left out and listed in the report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal

from bench.report import compile_table
from bench.report.formatting import MIB
from bench.report.history import Newest, Records

What = Literal[
    "share",
    "speed-up",
    "wall share",
    "memory share",
    "peak MiB",
    "operators",
    "operator share",
    "seconds",
    "AP",
    "AP50",
]
WALL = "wall on two threads"
"""Where a record keeps it, under `more`."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure of one case.

    Attributes:
        what: shares are ours / side, speed-up is side / ours, both of processor time by round;
            wall share is of wall time on two threads, operator share of dispatched operators;
            AP and AP50 are those of our side, in 0..1.
        op, shapes, direction, name: the case: op and direction equal, shapes among its own, name
            a regular expression in its name.
        dtypes: of the case.
        side, of: the side compared with, and the side that is compared; of "no compiler" or
            another, speed-up is side / of.
        along: the letter of the growth curve that the case is a point of.
    """

    what: What
    op: str
    shapes: Mapping[str, int] = field(default_factory=dict)
    direction: str | None = None
    name: str = ""
    side: str = "published"
    of: str = "ours"
    along: str | None = None
    dtypes: tuple[str, ...] = ("float32", "float64")

    def is_of(self, case: Newest) -> bool:
        row = case.row
        return (
            row["op"] == self.op
            and row["along"] == self.along
            and row["dtype"] in self.dtypes
            and self.direction in (None, row["direction"])
            and all(row["shapes"].get(key) == value for key, value in self.shapes.items())
            and re.search(self.name, row["name"]) is not None
        )

    def text(self, records: Records) -> str | None:
        """The figure, rounded; None where no CPU record has it."""
        found = [
            case
            for device in records.devices()
            for case in records.newest(device).values()
            if case.record.kind == "cpu" and self.is_of(case)
        ]
        if not found:
            return None
        return _rounded(self.what, self._value(max(found, key=lambda case: case.record.date)))

    def _value(self, case: Newest) -> float | None:
        if self.what == "peak MiB":
            peak = case.ours["peak_bytes"]
            return None if peak is None else peak / MIB
        if self.what == "seconds":
            return case.ours["seconds"]["median"]
        if self.what in ("AP", "AP50"):
            return case.ours["more"].get(self.what)
        if self.what.startswith("operator"):
            ours, theirs = (self._more(case, side, "operators") for side in ("ours", self.side))
            if self.what == "operators" or not ours:
                return ours
            return ours / theirs if theirs else None
        if self.what == "wall share":
            ours, theirs = (self._more(case, side, WALL) for side in ("ours", self.side))
            return ours["median"] / theirs["median"] if ours and theirs else None
        if self.what == "memory share":
            ratio = case.memory_ratio(self.side)
        else:
            ratio = case.time_ratio(self.side)
            if ratio and self.of != "ours":
                other = case.time_ratio(self.of)
                ratio = ratio / other if other else None
        if not ratio:
            return None
        return ratio if self.what == "speed-up" else 1 / ratio

    @staticmethod
    def _more(case: Newest, side: str, key: str) -> Any:
        return case.row["sides"].get(side, {"more": {}})["more"].get(key)


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The largest value of a column of the compiled table, rounded up, as it is a bound.

    Attributes:
        case: regular expression of the whole name.
    """

    column: Literal["per_row", "registers", "spills"]
    case: str
    targets: tuple[str, ...]

    def text(self, records: Records) -> str | None:
        value = compile_table.most(compile_table.rows(), self.column, self.case, self.targets)
        return None if value is None else f"{ceil(value):,}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A row: `result` has one {} for each of `values`; the README shows the headlines only."""

    claim: str
    command: str
    result: str
    values: tuple[Measured | Compiled, ...]
    is_headline: bool = False

    def row(self, records: Records) -> tuple[str, str, str] | None:
        """claim, command, result; None where a value is missing."""
        texts = [value.text(records) for value in self.values]
        if None in texts:
            return None
        return self.claim, f"`{self.command}`", self.result.format(*texts)


def _rounded(what: What, value: float | None) -> str | None:
    if value is None:
        return None
    if what in ("AP", "AP50"):
        return f"{value:.4f}"
    if what in ("peak MiB", "operators", "seconds"):
        return f"{value:,.0f}"
    return f"{value:.1f}" if what == "speed-up" else f"{value:.2f}"


_R50 = "R50|resnet50|ResNet-50"
_STEP = {"op": "training step", "shapes": {"T": 5, "H": 192, "W": 320}, "name": _R50}
_VIDEO = {"op": "inference", "shapes": {"T": 10, "H": 192, "W": 320}, "name": _R50}
_VIDEO_36 = {"op": "inference", "shapes": {"T": 36, "H": 360, "W": 640}, "name": _R50}
_MSDA = {"op": "msda encoder", "shapes": {"T": 5, "H": 192, "W": 320}}
_INPUTS = "(points|boxes|locations)"
_NVIDIA = ("70", "75", "80", "86", "89", "90", "100")
_SHARES = "{} of its CPU time, {} of its memory"
_HALF = {"op": "demo evaluation", "dtypes": ("float32", "bfloat16", "float16")}

FIGURES: tuple[Figure, ...] = (
    Figure(
        claim="ResNet-50 training step (T=5, 192x320) against the published formulation",
        command="pytest bench --measure -k resnet50",
        result=_SHARES,
        values=(Measured(what="share", **_STEP), Measured(what="memory share", **_STEP)),
        is_headline=True,
    ),
    Figure(
        claim="operators that one such step dispatches, against the published formulation",
        command="pytest bench --measure -k resnet50",
        result="{}, {} of its number",
        values=(Measured(what="operators", **_STEP), Measured(what="operator share", **_STEP)),
    ),
    Figure(
        claim="ResNet-50 inference (T=10, 192x320) against the published formulation",
        command="pytest bench --measure -k resnet50",
        result=_SHARES,
        values=(Measured(what="share", **_VIDEO), Measured(what="memory share", **_VIDEO)),
    ),
    Figure(
        claim="that formulation, our baseline, against the original code, same step and video",
        command="SEQFORMER_PUBLIC=... pytest bench --measure -k resnet50",
        result="{} and {} of its CPU time",
        values=tuple(
            Measured(what="share", side="public", of="published", **size)
            for size in (_STEP, _VIDEO)
        ),
    ),
    Figure(
        claim="the same step and video on two threads",
        command="pytest bench --measure --wall -k resnet50",
        result="{} and {} of its wall time",
        values=(Measured(what="wall share", **_STEP), Measured(what="wall share", **_VIDEO)),
    ),
    Figure(
        claim="whole-video inference, ResNet-50, 36 frames of 360x640, against the published "
        "formulation",
        command="pytest bench --measure -k resnet50",
        result="{} times the speed, {} of its memory",
        values=(Measured(what="speed-up", **_VIDEO_36), Measured(what="memory share", **_VIDEO_36)),
        is_headline=True,
    ),
    Figure(
        claim="peak memory of the process for 50, 200 and 1,000 frames, ResNet-50, 360x640",
        command="python -m bench.long_video",
        result="{}, {} and {} MiB in all",
        values=tuple(
            Measured(what="peak MiB", op="long video", shapes={"T": frames}, along="T")
            for frames in (50, 200, 1000)
        ),
        is_headline=True,
    ),
    Figure(
        claim="mask head beside grouped convolutions, both ways",
        command="pytest bench --measure -k mask",
        result="{} times as fast, {} of the memory",
        values=(
            Measured(what="speed-up", op="mask head", direction="both"),
            Measured(what="memory share", op="mask head", direction="both"),
        ),
    ),
    Figure(
        claim="focal and dice losses of masks, without their logits, both ways",
        command="pytest bench --measure -k mask",
        result="{} times as fast, {} of the memory",
        values=(
            Measured(what="speed-up", op="mask losses", direction="both"),
            Measured(what="memory share", op="mask losses", direction="both"),
        ),
    ),
    Figure(
        claim="run lengths of masks, from their logits",
        command="pytest bench --measure -k lengths",
        result="{} times as fast, {} of the memory",
        values=(
            Measured(what="speed-up", op="run lengths"),
            Measured(what="memory share", op="run lengths"),
        ),
    ),
    Figure(
        claim="deformable attention on the CPU beside `grid_sample`, frame by frame and level by "
        "level",
        command="pytest bench --measure -k msda",
        result="{} times as fast forward, {} times both ways, {} of its memory; without a compiler "
        "{} and {} times",
        values=(
            Measured(what="speed-up", direction="forward", **_MSDA),
            Measured(what="speed-up", direction="both", **_MSDA),
            Measured(what="memory share", direction="both", **_MSDA),
            Measured(what="speed-up", direction="forward", of="no compiler", **_MSDA),
            Measured(what="speed-up", direction="both", of="no compiler", **_MSDA),
        ),
        is_headline=True,
    ),
    Figure(
        claim="loading training clips (720p JPEG) beside the published way, per core",
        command="pytest bench --measure -k loader",
        result="{} times the clips per second",
        values=(Measured(what="speed-up", op="loader"),),
        is_headline=True,
    ),
    Figure(
        claim="scoring a file of validation size, process and all, beside the official evaluator",
        command="python -m bench.scorer",
        result="{} of its CPU time ({} with HOTA and IDF1), {} of its memory",
        values=(
            Measured(what="share", op="scorer command", name="run lengths"),
            Measured(what="share", op="scorer command", name="run lengths", of="with HOTA"),
            Measured(what="memory share", op="scorer command", name="run lengths"),
        ),
        is_headline=True,
    ),
    Figure(
        claim="the demo, 60 held-out videos: one process of one thread, two under torchrun",
        command="python -m bench.demo",
        result="AP {} (AP50 {}) in {} s; AP {} (AP50 {}) in {} s",
        values=tuple(
            Measured(what=what, op="demo", name=f"on {processes} ")
            for processes in (1, 2)
            for what in ("AP", "AP50", "seconds")
        ),
        is_headline=True,
    ),
    Figure(
        claim="the demo's held-out videos evaluated in float32, bf16 and fp16",
        command="python -m bench.demo",
        result="AP {}, {} and {}",
        values=tuple(
            Measured(what="AP", name=f"in {dtype}$", **_HALF)
            for dtype in ("float32", "bfloat16", "float16")
        ),
    ),
    Figure(
        claim="launches of deformable attention at the model's shapes for sm_70 to sm_100, "
        "compiled without a GPU",
        command="python -m bench.compile",
        result="{} bytes of spills; on sm_80 and sm_90 at most {} instructions per row forward "
        "(half precision {}), backward in float32 at most {} and {}",
        values=(
            Compiled(column="spills", case="msda .*", targets=_NVIDIA),
            Compiled(
                column="per_row", case=f"msda forward float32 {_INPUTS}", targets=("80", "90")
            ),
            Compiled(
                column="per_row", case=f"msda forward .*float16 {_INPUTS}", targets=("80", "90")
            ),
            Compiled(column="per_row", case=f"msda backward float32 {_INPUTS}", targets=("80",)),
            Compiled(column="per_row", case=f"msda backward float32 {_INPUTS}", targets=("90",)),
        ),
    ),
    Figure(
        claim="launches of the mask head and of its losses for the same GPUs",
        command="python -m bench.compile",
        result="{} bytes of spills; the float32 forward in {} registers on sm_70 to sm_90",
        values=(
            Compiled(column="spills", case="mask .*", targets=_NVIDIA),
            Compiled(
                column="registers",
                case="mask forward float32",
                targets=tuple(target for target in _NVIDIA if target != "100"),
            ),
        ),
    ),
)
