"""Records of benchmark runs: one JSON file per run under `bench/results/<device>/`.

    {"schema": 1, "part": "cpu" | "ops" | "model" | "peers" | ..., "date": "2026-11-25T12:00:00Z",
     "machine": {"device": name, "commit": ..., "uncommitted_changes": ..., "torch": ..., ...},
     "extra": {...},                      # what belongs to the run: ceilings, checks
     "cases": [{"name", "op", "group", "direction", "dtype", "shapes", "bytes", "flops",
                "half_flops", "units", "baseline", "along",
                "sides": {"ours": {"seconds": {"median", "p20", "p80", "samples"},
                                   "clock": "process" | "cuda cold" | "cuda steady" | "wall",
                                   "peak_bytes": ... | null, "peak_method": name | absent,
                                   "more": {...}}, ...},
                "left_out": {side: reason}}, ...]}     # on a GPU: sides that could not run

A side's `seconds` is what ratios and regressions are about; other clocks of the same call stand
under `more`, in the same form. `ratios` of a case is made from it: `{side: {"time": side / ours,
"time_by_round": ..., "memory": side / ours}}`, so 2.0 is "ours is twice as fast".
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.suite.schema import Case
from seqformer.files import write_text

RESULTS = Path(__file__).parents[1] / "results"
SCHEMA = 1


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median, 20 and 80 percent quantiles, and the samples themselves, in seconds."""
    low, high = torch.tensor(samples, dtype=torch.float64).quantile(
        torch.tensor([0.2, 0.8], dtype=torch.float64)
    )
    return {
        "median": statistics.median(samples),
        "p20": float(low),
        "p80": float(high),
        "samples": list(samples),
    }


def side_row(
    samples: Sequence[float],
    clock: str,
    peak_bytes: int | None = None,
    peak_method: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One side of a case; `peak_method` says how the peak was found, if there are several ways."""
    row = {"seconds": summary(samples), "clock": clock, "peak_bytes": peak_bytes}
    if peak_method is not None:
        row["peak_method"] = peak_method
    return row | {"more": more}


def case_row(case: Case, sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One case: what was asked, what was measured, and ratios of every other side to ours."""
    ratios: dict[str, dict[str, float | None]] = {}
    ours = sides["ours"]
    for name, side in sides.items():
        if name == "ours":
            continue
        mine, theirs = ours["seconds"], side["seconds"]
        by_round = None
        if len(mine["samples"]) == len(theirs["samples"]):
            by_round = statistics.median(
                b / a for a, b in zip(mine["samples"], theirs["samples"], strict=True)
            )
        memory = None
        if ours["peak_bytes"] and side["peak_bytes"] is not None:
            memory = side["peak_bytes"] / ours["peak_bytes"]
        ratios[name] = {
            "time": theirs["median"] / mine["median"],
            "time_by_round": by_round,
            "memory": memory,
        }
    return {
        "name": case.name,
        "op": case.op,
        "group": case.group,
        "direction": case.direction,
        "dtype": case.dtype,
        "shapes": dict(case.shapes),
        "bytes": case.cost.bytes,
        "flops": case.cost.flops,
        "half_flops": case.cost.half_flops,
        "units": None if case.units is None else list(case.units),
        "baseline": case.baseline,
        "along": case.along,
        "sides": sides,
        "ratios": ratios,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on; `device` is the hardware's own name."""
    facts: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "kind": device.type,
        "commit": output_of("git", "rev-parse", "HEAD"),
        "uncommitted_changes": bool(
            output_of("git", "status", "--porcelain", "--untracked-files=no")
        ),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "numpy": _version("numpy"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "device": properties.name,
            "sm": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
            "driver": output_of(
                "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
            ),
        }
    else:
        facts |= {
            "device": _cpu_name() or facts["device"],
            "cores": os.cpu_count(),
            "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        }
    return facts


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), None)


def _version(module: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(module)
    except PackageNotFoundError:
        return None


def output_of(*command: str) -> str | None:
    """First line that a command prints; None where it fails or does not exist."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip().partition("\n")[0]


def device_folder(facts: dict[str, Any], results: Path = RESULTS) -> Path:
    """`results/cpu`, or a folder named after the GPU: `results/nvidia-h200`."""
    if facts["kind"] == "cpu":
        return results / "cpu"
    return results / re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-")


def new_record(
    part: str, facts: dict[str, Any], cases: list[dict[str, Any]], **extra: Any
) -> dict[str, Any]:
    """A record of now."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "schema": SCHEMA,
        "part": part,
        "date": now,
        "machine": facts,
        "extra": extra,
        "cases": cases,
    }


def write(record: dict[str, Any], path: Path | None = None, results: Path = RESULTS) -> Path:
    """Write a record, by default as a new file of its device's folder; returns the path. Whoever
    ends the program in between leaves the former content."""
    path = default_path(record, results) if path is None else path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1) + "\n")
    return path


def default_path(record: dict[str, Any], results: Path = RESULTS) -> Path:
    """The file of a record in its device's folder, by date, commit and part."""
    stamp = re.sub(r"[^0-9T]", "", record["date"])
    commit = (record["machine"]["commit"] or "unknown")[:7]
    return device_folder(record["machine"], results) / f"{stamp}-{commit}-{record['part']}.json"
