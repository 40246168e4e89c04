"""Find the launch table of the GPU at hand: measure every candidate tile, keep the fastest.

    python -m bench.tune            # prints the candidates, rewrites kernels/msda_table.py
    python -m bench.tune --dry-run  # prints only

Tuned at the encoder layer of 480x768 frames, where a step spends its time, in float32 and bfloat16
together (sum of both), with the samples of a trained model. Entries of other GPU families stay.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Literal

import torch

from bench import timing
from bench.directions import call_of
from bench.msda_calls import MSDACall, ours
from kernels import msda_table
from kernels.launch import capability_of, family
from kernels.msda_table import Tile


def candidates(direction: str, capability: int) -> Iterator[Tile]:
    """Tiles worth a measurement."""
    for num_warps in (1, 2, 4, 8):
        for max_registers in (None, 96, 128):
            if direction == "forward":
                for channels in (4, 8, 16, 32):
                    yield Tile(
                        num_warps=num_warps,
                        channels_per_lane=channels,
                        max_registers=max_registers,
                    )
                continue
            for channels in (4, 8, 16):
                yield Tile(
                    num_warps=num_warps,
                    channels_per_lane=channels,
                    max_registers=max_registers,
                    scalar=capability < 90,
                )


def measure(
    direction: Literal["forward", "backward"],
    tile: Tile,
    device: torch.device,
    cases: Sequence[MSDACall],
) -> float:
    """Seconds of all cases with this tile."""
    table = msda_table.FORWARD if direction == "forward" else msda_table.BACKWARD
    key = family(capability_of(device))
    before, table[key] = table[key], tile
    try:
        total = 0.0
        for case in cases:
            inputs = case.inputs(device)
            call = call_of(ours, inputs, direction, inputs.grad_output)
            total += median(timing.cold(call, device))
        return total
    finally:
        table[key] = before


def rewrite(text: str, direction: str, key: int, tile: Tile) -> str:
    """The table's source with one entry replaced."""
    name = direction.upper()
    plain = replace(tile)
    fields = [f"num_warps={plain.num_warps}", f"channels_per_lane={plain.channels_per_lane}"]
    if plain.max_registers is not None:
        fields.append(f"max_registers={plain.max_registers}")
    if plain.scalar:
        fields.append("scalar=True")
    entry = f"    {key}: Tile({', '.join(fields)}),"
    head, block, tail = re.split(rf"(?ms)^({name} = \{{\n.*?^\}})", text, maxsplit=1)
    changed, count = re.subn(rf"(?m)^    {key}: Tile\(.*\),$", entry, block)
    if count != 1:
        raise ValueError(f"{name} has no entry of its own for family {key}")
    return head + changed + tail


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="leave the table as it is")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("no GPU found; tuning needs the one that it is for", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    capability = capability_of(device)
    key = family(capability)
    cases = [
        MSDACall(height=480, width=768, frames=10, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    path = Path(msda_table.__file__)
    text = path.read_text(encoding="utf-8")
    for direction in ("forward", "backward"):
        times = {}
        for tile in candidates(direction, capability):
            times[tile] = measure(direction, tile, device, cases)
            print(f"{direction:9}{1e3 * times[tile]:9.3f} ms  {tile}", flush=True)
        best = min(times, key=times.__getitem__)
        print(f"{direction:9}{1e3 * times[best]:9.3f} ms  {best}  <- fastest")
        text = rewrite(text, direction, key, best)
    if not options.dry_run:
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
