"""What two launches ask of memory: as the emulator predicts it, and as a GPU's counters say.

    python -m bench.counts memory                       # emulates, and writes its record
    python -m bench.counts memory "attention forward"   # on a GPU: its counters as JSON

The launches are of deformable attention, forward and backward, one frame of 96x160 pixels, float32.
Their inputs are drawn on the CPU, so that all machines see the same numbers. `bench.gpu --part
first` puts both sides beside each other. Counters come from Nsight Compute (`ncu`) where it is
installed, else through CUPTI from PyTorch's profiler; a machine may forbid both.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kernels
from bench.offline.counts.store import FOLDER, Store, read_rows
from bench.suite.msda_calls import Inputs, MSDACall, ours

COUNTERS = {
    "load requests": ("l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum",),
    "load sectors": ("l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",),
    "store sectors": ("l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum",),
    "atomic requests": (
        "l1tex__t_requests_pipe_lsu_mem_global_op_red.sum",
        "l1tex__t_requests_pipe_lsu_mem_global_op_atom.sum",
    ),
    "atomic sectors": (
        "l1tex__t_sectors_pipe_lsu_mem_global_op_red.sum",
        "l1tex__t_sectors_pipe_lsu_mem_global_op_atom.sum",
    ),
}
"""Count -> the hardware's counters whose sum it is."""
METRICS = tuple(name for names in COUNTERS.values() for name in names)
Counts = dict[str, float]
SIZE = {"height": 96, "width": 160, "frames": 1}
"""Of the frames; four levels of 320 cells and fewer."""
RECORD, PART, KEY = FOLDER / "memory.json", "emulated-memory", ("launch", "capability")
CAPABILITIES = (70, 80, 90, 100)
SECONDS = 100
"""A process that counts may take so long; importing and compiling are most of it."""
AGREEMENT = 0.02
"""Relative difference up to which prediction and counter agree."""


@dataclass(frozen=True)
class CountedLaunch:
    """A launch that both sides count: `kernel` as `bench.offline.emulator` names it."""

    name: str
    kernel: str
    call: Callable[[torch.device], Callable[[], Any]]


def _inputs(device: torch.device) -> Inputs:
    inputs = MSDACall(**SIZE).inputs(torch.device("cpu"), seed=3)
    tensors = ("value", "offsets", "logits", "reference", "grad_output")
    return replace(inputs, **{name: getattr(inputs, name).to(device) for name in tensors})


def _forward(device: torch.device) -> Callable[[], Any]:
    inputs = _inputs(device)
    leaves = [leaf.detach() for leaf in inputs.leaves()]
    return torch.no_grad()(lambda: ours(inputs, leaves))


def _backward(device: torch.device) -> Callable[[], Any]:
    inputs = _inputs(device)

    def call() -> tuple[Tensor, ...]:
        leaves = inputs.leaves()
        return torch.autograd.grad(ours(inputs, leaves), leaves, inputs.grad_output)

    return call


LAUNCHES = (
    CountedLaunch("attention forward", "deformable_attention.forward_kernel", _forward),
    CountedLaunch("attention backward", "deformable_attention.backward_kernel", _backward),
)


def compared(launch: CountedLaunch, predicted: Counts | str, measured: Counts | str) -> list[dict]:
    """Rows {"launch", "count", "predicted", "measured", "ratio", "agrees"}; one row {"launch",
    "missing"} where a side is a sentence that says why it has no counts."""
    missing = [side for side in (predicted, measured) if isinstance(side, str)]
    if missing:
        known = {
            name: side
            for name, side in (("predicted", predicted), ("measured", measured))
            if not isinstance(side, str)
        }
        return [{"launch": launch.name, "missing": "; ".join(missing), **known}]
    rows = []
    for name in COUNTERS:
        a, b = predicted[name], measured[name]
        ratio = b / a if a else (1.0 if b == a else float("inf"))
        agrees = abs(ratio - 1) <= AGREEMENT
        row = {"launch": launch.name, "count": name, "predicted": a, "measured": b}
        rows.append(row | {"ratio": ratio, "agrees": agrees})
    return rows


def predictions(capability: int, path: Path = RECORD) -> dict[str, Counts] | str:
    """Launch -> counts of the record; or a sentence why not."""
    rows = [row for row in read_rows(path, PART) if row["capability"] == capability]
    command = "run python -m bench.counts memory"
    if not rows:
        return f"nothing is predicted for sm_{capability}: {command}"
    if {row["code"] for row in rows} != {kernels_digest()}:
        return f"the prediction for sm_{capability} is of other kernels: {command}"
    return {row["launch"]: row["counts"] for row in rows}


def kernels_digest() -> str:
    """Of the operator's code, kernels and launchers: a prediction is of what it was made with.
    Comments and docstrings do not count."""
    folder = Path(kernels.__file__).parent / "deformable_attention"
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        tree = _Bare().visit(ast.parse(path.read_text(encoding="utf-8")))
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()[:16]


class _Bare(ast.NodeTransformer):
    """Takes docstrings out."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if is_text else node


def predict(launch: CountedLaunch, capability: int) -> Counts:
    """Emulate a launch, and count."""
    from bench.offline.emulator import Options
    from bench.offline.emulator.session import emulated

    with emulated(capability, options=Options(count=True)) as gpu:
        launch.call(torch.device("cpu"))()
    (one,) = (made for made in gpu.launches if made.kernel == launch.kernel)
    counts = one.counts
    return {
        "load requests": counts.loads.requests,
        "load sectors": counts.loads.sectors,
        "store sectors": counts.stores.sectors,
        "atomic requests": counts.atomics.requests,
        "atomic sectors": counts.atomics.sectors,
    }


def measure(launch: CountedLaunch) -> Counts | str:
    """Counters of a launch in a process of its own; or a sentence why there are none."""
    ways = [("ncu", _with_ncu)] if shutil.which("ncu") else []
    reasons = [] if ways else ["ncu is not installed"]
    for name, way in [*ways, ("CUPTI", _with_cupti)]:
        try:
            return way(launch)
        except subprocess.TimeoutExpired:
            reasons.append(f"{name} took more than {SECONDS} s")
        except (subprocess.CalledProcessError, ValueError, KeyError, OSError) as error:
            output = getattr(error, "stderr", "") or getattr(error, "stdout", "") or str(error)
            last = [line for line in output.strip().splitlines() if line.strip()] or ["no output"]
            reasons.append(f"{name}: {last[-1].strip()[:200]}")
    return "; ".join(reasons)


def _with_ncu(launch: CountedLaunch) -> Counts:
    kernel = launch.kernel.rpartition(".")[2]
    command = ["ncu", "--csv", "--page", "raw", "--metrics", ",".join(METRICS)]
    command += ["--kernel-name", kernel, "--launch-count", "1", sys.executable, "-m"]
    done = _run([*command, "bench.counts", "memory", launch.name, "--plain"])
    return _summed(parse_ncu(done, kernel))


def _with_cupti(launch: CountedLaunch) -> Counts:
    done = _run([sys.executable, "-m", "bench.counts", "memory", launch.name])
    return _summed(json.loads(done.splitlines()[-1]))


def _run(command: list[str]) -> str:
    return subprocess.run(
        command,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    ).stdout


def parse_ncu(text: str, kernel: str) -> Counts:
    """Metric -> value, from `ncu --csv --page raw`: a header, a line of units, a line per launch.

    Raises: ValueError where there is no such launch.
    """
    lines = [line for line in text.splitlines() if line.startswith('"')]
    for row in csv.DictReader(io.StringIO("\n".join(lines))):
        if kernel in row.get("Kernel Name", ""):
            return {name: float(row[name].replace(",", "")) for name in METRICS}
    raise ValueError(f"ncu saw no launch of {kernel}")


def _summed(metrics: Counts) -> Counts:
    return {name: sum(metrics[part] for part in parts) for name, parts in COUNTERS.items()}


def _cupti_counters(launch: CountedLaunch) -> Counts:
    """In the process that launches. Raises: ValueError where the profiler counted nothing."""
    from torch._C._profiler import _ExperimentalConfig
    from torch.profiler import ProfilerActivity, profile

    device = torch.device("cuda", torch.cuda.current_device())
    call = launch.call(device)
    call()
    torch.cuda.synchronize(device)
    config = _ExperimentalConfig(profiler_metrics=list(METRICS), profiler_measure_per_kernel=True)
    with profile(activities=[ProfilerActivity.CUDA], experimental_config=config) as profiler:
        call()
        torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return of_trace(events, launch.kernel.rpartition(".")[2])


def of_trace(events: Sequence[dict[str, Any]], kernel: str) -> Counts:
    """Metric -> value of a kernel in a trace. Raises: ValueError where it has none."""

    def counted() -> Iterator[dict[str, Any]]:
        for event in events:
            given = event.get("args", {})
            if kernel in event.get("name", "") and all(name in given for name in METRICS):
                yield given

    found = next(counted(), None)
    if found is None:
        raise ValueError("the profiler gave no counters; the driver may allow them to root only")
    return {name: float(found[name]) for name in METRICS}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.counts memory", description=__doc__.split("\n")[0])
    parser.add_argument("launch", nargs="?", choices=[launch.name for launch in LAUNCHES])
    parser.add_argument("--plain", action="store_true", help="launch only; a profiler looks on")
    parser.add_argument("--capability", type=int, nargs="+", default=list(CAPABILITIES))
    parser.add_argument("--changed", action="store_true", help="what the record does not have yet")
    parser.add_argument("--output", type=Path, default=RECORD, help="record to add to")
    options = parser.parse_args(arguments)
    if options.launch is not None:
        launch = next(launch for launch in LAUNCHES if launch.name == options.launch)
        if options.plain:
            launch.call(torch.device("cuda"))()
            torch.cuda.synchronize()
        else:
            print(json.dumps(_cupti_counters(launch)))
        return 0
    store, code = Store(options.output, PART, KEY), kernels_digest()
    for capability in options.capability:
        for launch in LAUNCHES:
            key = {"launch": launch.name, "capability": capability}
            if options.changed and store.has(code, **key):
                continue
            counts = predict(launch, capability)
            print(f"sm_{capability:<4}{launch.name:20}{counts}", flush=True)
            store.enter(key | {"counts": counts, "code": code})
    print(store.path)
    return 0
