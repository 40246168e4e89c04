"""Find the launch tables of the GPU at hand: measure every candidate tile, keep the fastest.

    python -m bench.tune                  # prints the candidates, rewrites the tables in kernels/
    python -m bench.tune --only mask      # of the mask head
    python -m bench.tune --dry-run        # prints only

Tuned where a step spends its time, in float32 and bfloat16 together (sum of both): the encoder
layer of 480x768 frames with the samples of a trained model, and the matched queries of six decoder
layers. Entries of other compute capabilities stay.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from bench.suite import mask_calls, msda_calls, timing
from bench.suite.directions import Pass, call_of
from bench.suite.mask_calls import MaskCall
from bench.suite.msda_calls import MSDACall
from bench.suite.schema import Call
from kernels.deformable_attention import tiles as attention_tiles
from kernels.device import facts
from kernels.mask_head import tiles as mask_tiles
from kernels.mask_loss import tiles as loss_tiles

WARPS = (1, 2, 4, 8)
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One table, and what is measured to fill it.

    Attributes:
        name: as `--only` finds it.
        module: that holds the table; its file is rewritten.
        table: name of the dictionary there.
        candidates: tiles worth a measurement, for a compute capability.
        calls: what is timed, on a device.
    """

    name: str
    module: ModuleType
    table: str
    candidates: Callable[[int], Iterator[Any]]
    calls: Callable[[torch.device], Iterator[Call]]

    @property
    def path(self) -> Path:
        assert self.module.__file__ is not None
        return Path(self.module.__file__)


def msda_candidates(direction: Pass, capability: int) -> Iterator[attention_tiles.LaunchConfig]:
    channels = (4, 8, 16, 32) if direction == "forward" else (4, 8, 16)
    for num_warps, max_registers, count in product(WARPS, (None, 96, 128), channels):
        yield attention_tiles.LaunchConfig(
            num_warps=num_warps,
            channels_per_lane=count,
            max_registers=max_registers,
            scalar=direction == "backward" and capability < 90,
        )


def merged_candidates(capability: int) -> Iterator[attention_tiles.MergedConfig | None]:
    """None: adds are not merged. Runs that bring neighbouring streams to different banks of L1."""
    yield None
    for vector, channels, run, max_registers in product((2, 4), (4, 8), (34, 66, 130), (None, 96)):
        yield attention_tiles.MergedConfig(
            num_warps=1,
            channels_per_lane=channels,
            vector=vector,
            run=run,
            max_registers=max_registers,
            scalar=capability < 90,
        )


def mask_candidates(smallest: int, capability: int) -> Iterator[mask_tiles.LaunchConfig]:
    """A lane needs neighbours of its own cells, so the smallest number is not one."""
    cells = [count for count in (2, 4, 8) if count >= smallest]
    for num_warps, max_registers, count in product(WARPS, (None, 96, 128), cells):
        yield mask_tiles.LaunchConfig(num_warps=num_warps, cells=count, max_registers=max_registers)


def mask_backward_candidates(capability: int) -> Iterator[mask_tiles.BackwardConfig]:
    cells = (1, 2, 4)
    for num_warps, of_parameters, of_features, sums in product((1, 2), cells, cells, (100, 176)):
        yield mask_tiles.BackwardConfig(
            num_warps=num_warps,
            parameter_cells=of_parameters,
            feature_cells=of_features,
            max_sums=sums,
        )


def _msda_calls(direction: Pass, device: torch.device) -> Iterator[Call]:
    for dtype in DTYPES:
        call = MSDACall(height=480, width=768, frames=10, dtype=dtype)
        inputs = call.inputs(device)
        yield call_of(msda_calls.ours, inputs, direction, inputs.grad_output)


def _unmerged_calls(device: torch.device) -> Iterator[Call]:
    """The same layers, adding one by one, as layers with fewer queries do."""

    def unmerged(call: Call) -> None:
        with mock.patch.object(attention_tiles, "MERGED_ROWS", sys.maxsize):
            call()

    for call in _msda_calls("backward", device):
        yield partial(unmerged, call)


def _mask_calls(run: mask_calls.Run, direction: Pass, device: torch.device) -> Iterator[Call]:
    for dtype in DTYPES:
        call = MaskCall(instances=60, frames=5, height=480, width=768, layers=6, dtype=dtype)
        inputs = call.inputs(device)
        grad = inputs.grad if run is mask_calls.ours else None
        yield call_of(run, inputs, direction, grad)


SUBJECTS = (
    Subject(
        name="msda forward",
        module=attention_tiles,
        table="FORWARD",
        candidates=partial(msda_candidates, "forward"),
        calls=partial(_msda_calls, "forward"),
    ),
    Subject(
        name="msda backward",
        module=attention_tiles,
        table="BACKWARD",
        candidates=partial(msda_candidates, "backward"),
        calls=_unmerged_calls,
    ),
    Subject(
        name="msda merged",
        module=attention_tiles,
        table="MERGED",
        candidates=merged_candidates,
        calls=partial(_msda_calls, "backward"),
    ),
    Subject(
        name="mask forward",
        module=mask_tiles,
        table="FORWARD",
        candidates=partial(mask_candidates, 2),
        calls=partial(_mask_calls, mask_calls.ours, "forward"),
    ),
    Subject(
        name="mask backward",
        module=mask_tiles,
        table="BACKWARD",
        candidates=mask_backward_candidates,
        calls=partial(_mask_calls, mask_calls.ours, "backward"),
    ),
    Subject(
        name="mask losses",
        module=loss_tiles,
        table="LOSS",
        candidates=partial(mask_candidates, 4),
        calls=partial(_mask_calls, mask_calls.our_losses, "both"),
    ),
)


def entry_of(subject: Subject, device: torch.device) -> int:
    """Key of the entry that this GPU is served by."""
    capability = facts().capability(device)
    return max(key for key in getattr(subject.module, subject.table) if key <= capability)


def measure(subject: Subject, tile: Any, device: torch.device) -> float:
    """Seconds of all calls with this tile."""
    table = getattr(subject.module, subject.table)
    key = entry_of(subject, device)
    before, table[key] = table[key], tile
    try:
        return sum(median(timing.cold(call, device)) for call in subject.calls(device))
    finally:
        table[key] = before


def rewrite(text: str, table: str, key: int, tile: Any) -> str:
    """The source of a table's module with one entry replaced.

    Raises: ValueError: there is no such entry.
    """
    entry = f"    {key}: {written(tile)},"
    parts = re.split(rf"(?ms)^({table} = \{{\n.*?^\}})", text, maxsplit=1)
    head, block, tail = parts if len(parts) == 3 else (text, "", "")
    changed, count = re.subn(rf"(?m)^    {key}: (?:None|\w+\(.*\)),$", entry, block)
    if count != 1:
        raise ValueError(f"{table} has no entry of its own for compute capability {key}")
    return head + changed + tail


def written(tile: Any) -> str:
    """A tile as its table spells it: defaults are left out."""
    if tile is None:
        return "None"
    values = [(field, getattr(tile, field.name)) for field in fields(tile)]
    stated = [
        f"{field.name}={value!r}"
        for field, value in values
        if field.default is MISSING or value != field.default
    ]
    return f"{type(tile).__name__}({', '.join(stated)})"


def tune(subject: Subject, device: torch.device) -> Any:
    """The fastest candidate; all are printed."""
    times = {}
    for tile in subject.candidates(facts().capability(device)):
        times[tile] = measure(subject, tile, device)
        print(f"{subject.name:14}{1e3 * times[tile]:9.3f} ms  {written(tile)}", flush=True)
    best = min(times, key=times.__getitem__)
    print(f"{subject.name:14}{1e3 * times[best]:9.3f} ms  {written(best)}  <- fastest", flush=True)
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="leave the tables as they are")
    parser.add_argument("--only", default="", help="tables whose name contains this")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("no GPU found; tuning needs the one that it is for", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    for subject in SUBJECTS:
        if options.only not in subject.name:
            continue
        best = tune(subject, device)
        if not options.dry_run:
            key = entry_of(subject, device)
            text = rewrite(subject.path.read_text(encoding="utf-8"), subject.table, key, best)
            subject.path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.tune", main)
