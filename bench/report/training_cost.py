"""Hours and cost of the published trainings per device, from a training step's throughput."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report import formatting as f
from bench.report.records import Newest, Records, Row
from bench.roofline import HALF, Device, device_named, floors, runs_on
from seqformer.config import presets

STEP = "training step"
VIDEO_FRAMES = 62_000
"""Frames of YouTube-VIS 2019's training set, each the middle of one clip an epoch."""
COCO_IMAGES = 103_000
"""Assumed: the authors report 1.5 hours an epoch on videos alone and 4 jointly (issue 13 of
wjf5203/SeqFormer), so jointly 2.67 times the clips."""
ASSUMED_EFFICIENCY = {"float32": 0.2, "half": 0.05}
"""Share of the floor's speed that a whole training step reaches, where no GPU tells. float32: the
authors' 1.5 hours an epoch, on eight V100, are 1.4 clips a second and GPU. half: the arithmetic of
the floor shrinks sixteenfold, traffic of activations and launches do not."""
PRICES = {"V100": 1.0, "A100": 2.0, "H100": 3.0, "H200": 4.0}
"""Assumed, per GPU hour, in any currency: round numbers to be replaced by one's own."""
PUBLISHED_PIXELS = 401 * 713
"""A training frame on average: short sides of the presets, 16:9."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A published training: its preset, and how cases of its backbone are named."""

    title: str
    preset: str
    backbone: str

    @property
    def clips(self) -> int:
        """Clips of the whole training."""
        config = presets()[self.preset][1]
        coco = COCO_IMAGES if config.data.coco_annotations is not None else 0
        return config.epochs * (VIDEO_FRAMES + coco)

    @property
    def steps(self) -> int:
        return self.clips // presets()[self.preset][1].data.global_batch_size


_R50 = r"\bR-?50\b|resnet-?50"
TRAININGS = (
    Training(title="R50, ablation (videos alone)", preset="r50_ablation", backbone=_R50),
    Training(title="R50", preset="r50", backbone=_R50),
    Training(title="R101", preset="r101", backbone=r"\bR-?101\b|resnet-?101"),
    Training(title="X101", preset="x101", backbone=r"\bX-?101\b|resnext-?101"),
    Training(title="Swin-L", preset="swin_l", backbone=r"\bswin[-_ ]?L\b"),
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Clips a second on one GPU, and where that is from."""

    clips_per_second: float
    case: str
    is_modelled: bool


def matching(training: Training, rows: Sequence[Row], device: Device | None) -> Row | None:
    """The training step to go by: half precision if it runs there, frames nearest to published."""

    def is_candidate(row: Row) -> bool:
        return (
            row["op"] == STEP
            and row.get("along") is None
            and row["shapes"].get("T") == 5
            and bool(row["units"])
            and re.search(training.backbone, row["name"], re.I) is not None
            and (device is None or runs_on(row, device))
        )

    def order(row: Row) -> tuple[bool, int]:
        pixels = row["shapes"].get("H", 0) * row["shapes"].get("W", 0)
        return row["dtype"] == "float32", abs(pixels - PUBLISHED_PIXELS)

    return min(filter(is_candidate, rows), key=order, default=None)


def measured(training: Training, newest: Mapping[str, Newest], device: str) -> Estimate | None:
    """From the device's records."""
    row = matching(training, [x.row for x in newest.values()], device_named(device))
    if row is None:
        return None
    per_second = row["units"][1] / row["sides"]["ours"]["seconds"]["median"]
    return Estimate(clips_per_second=per_second, case=row["name"], is_modelled=False)


def modelled(
    training: Training, rows: Sequence[Row], device: Device, efficiencies: Mapping[str, float]
) -> Estimate | None:
    """From the floor of the declared step."""
    row = matching(training, rows, device)
    floor = floors(row, device) if row is not None else None
    if row is None or floor is None:
        return None
    per_second = efficiencies[precision(row)] * row["units"][1] / floor.seconds
    return Estimate(clips_per_second=per_second, case=row["name"], is_modelled=True)


def precision(row: Row) -> str:
    return "half" if row["dtype"] in HALF else "float32"


def measured_efficiencies(records: Records) -> dict[str, float]:
    """precision -> median of floor / time of the training steps measured on known GPUs."""
    found: dict[str, list[float]] = {}
    for name in records.devices():
        device = device_named(name)
        for case in records.newest(name).values() if device else ():
            row, took = case.row, case.ours["seconds"]["median"]
            if row["op"] == STEP and row["along"] is None and (floor := floors(row, device)):
                found.setdefault(precision(row), []).append(floor.seconds / took)
    return {key: statistics.median(shares) for key, shares in found.items()}


def section(
    records: Records, rows: Sequence[Row], devices: Sequence[Device], prices: Mapping[str, float]
) -> str:
    """The trainings on measured GPUs, then on modelled ones."""
    lines = []
    for name in records.devices():
        if records.of(name)[-1].kind != "cpu":
            found = [(t, measured(t, records.newest(name), name)) for t in TRAININGS]
            lines += [_row(t, name, x, prices) for t, x in found if x is not None]
    told = measured_efficiencies(records)
    for device in devices:
        estimates = [(t, modelled(t, rows, device, ASSUMED_EFFICIENCY | told)) for t in TRAININGS]
        lines += [_row(t, device.name, x, prices) for t, x in estimates if x is not None]
    text = _text(prices, told)
    if not lines:
        return f"{text}\n\nNo training step at T=5 is measured on a GPU or declared with its cost."
    columns = ["training", "steps of 16 clips", "device", "by the case", "clips/s/GPU"]
    columns += ["GPU hours", "hours on 8 GPUs", "cost at the assumed price"]
    return f"{text}\n\n" + f.table(columns, lines, numbers_from=4)


def _row(
    training: Training, device: str, estimate: Estimate, prices: Mapping[str, float]
) -> list[str]:
    hours = training.clips / estimate.clips_per_second / 3600
    price = next((price for key, price in prices.items() if key in device), None)
    cells = [
        training.title,
        f"{training.steps:,}",
        device + (", modelled" if estimate.is_modelled else ""),
        estimate.case,
        f.digits(estimate.clips_per_second),
        f.digits(hours),
        f.digits(hours / 8),
        "–" if price is None else f.digits(hours * price),
    ]
    return [f"*{cell}*" for cell in cells] if estimate.is_modelled else cells


def _text(prices: Mapping[str, float], told: Mapping[str, float]) -> str:
    listed = ", ".join(f"{name} {price:g}" for name, price in prices.items())
    shares = ", ".join(
        f"{f.digits((ASSUMED_EFFICIENCY | told)[key], 2)} in {key} "
        + ("(measured, on the GPUs above)" if key in told else "(assumed)")
        for key in ASSUMED_EFFICIENCY
    )
    return f"""\
Epochs and clips per step are those of the presets of `seqformer/config/`; an epoch has a clip of
five frames for each of {VIDEO_FRAMES:,} video frames, jointly also for each of {COCO_IMAGES:,} COCO
images (assumed: the authors' 1.5 and 4 hours an epoch differ by that much). Time is that of the
training step alone, at one frame size, with data loading hidden behind it and no loss over several
GPUs. *Modelled* rows are no measurements: they take the step's floor over an efficiency, {shares}.
Without a measured step, float32 goes by the authors' 1.5 hours an epoch, which on eight V100 are a
fifth of the floor's speed; half precision is a guess. Prices per GPU hour are assumed, in any
currency: {listed} (`--price H200 3.5`)."""


def check_prices(prices: Mapping[str, float]) -> None:
    """Raises: ValueError: a price is for no listed device, or not positive."""
    for name, price in prices.items():
        if name not in PRICES or price <= 0:
            known = ", ".join(PRICES)
            raise ValueError(f"--price {name} {price:g}: give one of {known} and a price above 0")


def merged(prices: Mapping[str, Any]) -> dict[str, float]:
    """The assumed prices with those given in their place."""
    return PRICES | dict(prices)
