"""The GPU benchmark: one command per part, torch, triton and numpy only.

    python -m bench.gpu --part ops --out bench/results/NAME.json
    python -m bench.gpu --part peers --out bench/results/NAME-peers.json

Ceilings are measured first, then correctness against float64, and only then time; a failed check
ends the run. `--smoke` runs tiny cases on any device, to see that everything works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

LIMITS = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
"""Relative errors beyond which nothing is timed."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=("ops", "peers"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON record to write")
    parser.add_argument("--smoke", action="store_true", help="tiny cases, any device")
    options = parser.parse_args(arguments)
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.smoke:
        print("no GPU found; --smoke runs tiny cases on the CPU", file=sys.stderr)
        return 2
    if not has_gpu:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    import kernels

    device = torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")
    with kernels.use_backend("auto" if has_gpu else "triton"):
        record = measure(device, options.part, options.smoke)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(record['rows'])} rows in {record['seconds']:.0f} s: {options.out}")
    return 1 if record["failed_checks"] else 0


def measure(device: torch.device, part: str, is_smoke: bool) -> dict[str, Any]:
    """The whole record of a part; rows are printed as they come."""
    from bench import ceilings, gpu_mask, gpu_msda

    start = time.perf_counter()
    record: dict[str, Any] = {"part": part, **machine(device), "rows": []}
    record["ceilings"] = ceilings.measure(device)
    record["checks"] = gpu_msda.check(device, is_smoke) + gpu_mask.check(device, is_smoke)
    record["failed_checks"] = [
        f"{check['dtype']} {name}: {error:.1e}"
        for check in record["checks"]
        for name, error in check["relative_error"].items()
        if not error <= LIMITS[check["dtype"]]
    ]
    if record["failed_checks"]:
        print("checks failed, nothing is timed:", *record["failed_checks"], sep="\n  ")
    else:
        suites: list[Callable[..., Iterator[dict[str, Any]]]] = [
            gpu_msda.run_cases,
            gpu_mask.run_cases,
        ]
        for suite in suites:
            for row in suite(device, record["ceilings"], is_smoke, part == "peers"):
                record["rows"].append(row)
                print(_line(row), flush=True)
    record["clocks_after"] = _clocks(device)
    record["seconds"] = time.perf_counter() - start
    return record


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on; `gpu` is the device's own name."""
    import triton

    from bench.gpu_peers import missing_peers

    facts: dict[str, Any] = {
        "commit": _output("git", "rev-parse", "HEAD"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "missing_peers": missing_peers(),
        "clocks_before": _clocks(device),
        "gpu": None,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "sm": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "driver": _query("driver_version"),
        }
    return facts


def _clocks(device: torch.device) -> dict[str, str | None]:
    if device.type != "cuda":
        return {}
    return {name: _query(name) for name in ("clocks.sm", "clocks.mem", "clocks.max.sm")}


def _query(name: str) -> str | None:
    return _output("nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader")


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip().partition("\n")[0]


def _line(row: dict[str, Any]) -> str:
    head = f"{row['case']:24}{row['contender']:26}"
    if "error" in row:
        return head + row["error"]
    text = f"{head}{row['dtype']:10}{row['pattern']:9}{row['fwd_ms']:9.3f}{row['bwd_ms']:9.3f} ms"
    if "both_ratio" in row:
        text += f"   ours is {row['forward_ratio']:.1f}x, both ways {row['both_ratio']:.1f}x"
    return text


if __name__ == "__main__":
    sys.exit(main())
