"""Benchmark records that nobody measured, for tests of the report: made here, never stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.suite import record
from bench.suite.schema import Case, Cost, Side

CPU = {
    "device": "Fabricated CPU",
    "kind": "cpu",
    "cores": 2,
    "torch": "0.0",
    "load_average": [0.5, 0.6, 0.7],
}
GPU = {"device": "NVIDIA H200", "kind": "cuda", "sm": "9.0", "driver": "0.0", "torch": "0.0"}
MIB = 2**20


def _never(device: Any) -> Any:
    raise AssertionError("fabricated cases are not run")


def case(name: str, op: str, group: str = "kernels", **fields: Any) -> Case:
    """A case of two sides that cannot be called."""
    sides = tuple(Side(name=side, build=_never) for side in ("ours", "published"))
    return Case(name=name, op=op, group=group, sides=sides, **fields)


def side(
    rng: np.random.Generator,
    median: float,
    noise: float,
    rounds: int,
    mib: float | None,
    **more: Any,
) -> dict[str, Any]:
    """A side with log-normal noise, one round in ten disturbed on top."""
    disturbed = (rng.random(rounds) < 0.1) * rng.exponential(3 * noise, rounds)
    samples = median * np.exp(rng.normal(0, noise, rounds) + disturbed)
    peak = None if mib is None else int(mib * MIB)
    return record.side_row(samples.tolist(), "process", peak, **more)


def cases() -> list[tuple[Case, float, float, float]]:
    """(case, seconds of ours, MiB of ours, speed-up over the baseline)."""
    attention = {"B": 2, "T": 5, "S": 7656, "M": 8, "L": 4, "P": 4, "C": 256}
    step = {"B": 1, "T": 5, "H": 192, "W": 320, "Q": 300, "N": 6}
    found = [
        (
            case(
                f"msda {d}",
                "msda encoder",
                direction=d,
                shapes=attention,
                dtype=dtype,
                cost=Cost(bytes=274_000_000, flops=2_900_000_000),
            ),
            t,
            100,
            9.0,
        )
        for d, t, dtype in (("forward", 5e-4, "float32"), ("both", 2e-3, "float32"))
    ]
    found += [
        (case("mask head", "mask head", direction="both", shapes={"N": 10, "T": 5}), 8e-3, 16, 2.6),
        (
            case("encoder layer", "encoder layer", "blocks", direction="both", shapes=step),
            0.1,
            90,
            2,
        ),
        (
            case(
                "training step R50 192x320 T=5",
                "training step",
                "model",
                shapes=step,
                units=("clips", 1),
                cost=Cost(bytes=10**10, flops=10**12),
            ),
            4.0,
            1400,
            2.0,
        ),
        (
            case(
                "inference R50 192x320 T=10",
                "inference",
                "model",
                shapes=step | {"T": 10},
                units=("frames", 10),
            ),
            3.0,
            300,
            2.2,
        ),
        (case("loader", "loader", "data", units=("clips", 1)), 0.05, 30, 2.6),
    ]
    for T in (2, 5, 10, 20):
        found.append(
            (
                case(
                    f"training step along T={T}",
                    "training step",
                    "growth",
                    along="T",
                    shapes=step | {"T": T},
                ),
                0.8 + 0.65 * T,
                200 + 240 * T,
                2.0,
            )
        )
    return found


def fabricate(
    machine: dict[str, Any],
    day: int,
    seed: int,
    *,
    part: str = "ops",
    noise: float = 0.03,
    load: float = 1.0,
    slowdowns: dict[str, float] | None = None,
    sides: tuple[str, ...] = ("ours", "published"),
    chosen: list[tuple[Case, float, float, float]] | None = None,
) -> dict[str, Any]:
    """A record of November `day`; `load` multiplies all times, `slowdowns` ours, by case."""
    rng = np.random.default_rng(seed)
    rounds = 5 if machine["kind"] == "cpu" else 50
    rows = []
    for declared, seconds, mib, gain in chosen or cases():
        slow = (slowdowns or {}).get(declared.name, 1.0)
        both = {}
        for name, took, size, operators in (
            ("ours", seconds * slow, mib, 1200),
            ("published", seconds * gain, 2 * mib, 6000),
        ):
            more = {"operators": operators, "wall on two threads": record.summary([0.6 * took])}
            both[name] = side(rng, load * took, noise, rounds, size, **more)
        rows.append(record.case_row(declared, {k: v for k, v in both.items() if k in sides}))
    made = record.new_record(part, machine | {"commit": f"{seed:07x}"}, rows)
    return made | {"date": f"2026-11-{day:02}T12:00:00Z"}


def write(results: Path, *records: dict[str, Any]) -> Path:
    for made in records:
        record.write(made, results=results)
    return results
