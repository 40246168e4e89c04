"""`bench.gpu --part first`: what to know first when a GPU is at hand, in at most eight minutes.

In this order, each within its time: every kernel launched, and its results against float64; what
two launches ask of memory, predicted and counted; then time, beside other projects' operators, of a
training step and of inference. Whatever time remains goes to further kernels beside the peers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import kernels
from bench.offline.counts import memory
from bench.suite import checks
from bench.suite.run import ALWAYS, Run
from bench.suite.schema import Case

BUDGET = 460.0
"""Seconds; a stage that has begun may exceed it by its own length."""
NEEDS = {"check": 5.0, "count": 120.0, "kernels": 15.0, "model": 60.0}
"""Seconds that must be left for a stage to begin."""
TIMED = (
    "msda encoder 480x768 T=10 float32 forward",
    "training step resnet50 B=1 T=5 480x768 bfloat16",
    "inference resnet50 T=36 360x640 bfloat16",
    "msda encoder 480x768 T=10 float32 both",
    "msda encoder 480x768 T=10 bfloat16 forward",
    "mask head .* both",
    "mask losses .* both",
    "training step resnet50 B=1 T=5 480x768 float32",
    "msda encoder 480x768 T=10 float16 both",
    "msda decoder 480x768 T=10 float32 both",
    "inference resnet50 T=36 360x640 float32",
)
"""Cases in order of importance, as regular expressions; the first that fits each."""
SLOW_SIDES = ("compiled", "all frames")
"""Left out: they take long to build and are in other parts."""


def measure(
    run: Run,
    device: torch.device,
    is_smoke: bool,
    cases: list[Case],
    time_case: Callable[[Case], None],
) -> None:
    """All stages.

    Args:
        cases: to time, in order.
        time_case: measures one and enters its row; raises what a stage may raise.
    """
    launched: Counter[str] = Counter()
    run.extra["failed_checks"] = []
    with kernels.use_backend("triton"), noted_launches(launched):
        checks.run_all(run, device, is_smoke, NEEDS["check"])
    names = run.stage("names of the kernels", kernel_names, ALWAYS) or []
    run.extra["launches"] = {name: launched[name] for name in names}
    for name in names:
        if not launched[name]:
            run.extra["failed_checks"].append(f"{name} was not launched")
    run.save()
    run.extra["counts"] = []
    for launch in memory.LAUNCHES:
        count = partial(count_rows, launch, device)
        rows = run.stage(f"counts of {launch.name}", count, NEEDS["count"])
        run.extra["counts"] += rows or []
        run.save()
    for case in cases:
        kind = "model" if case.group == "model" else "kernels"
        run.stage(case.name, partial(time_case, case), 0.0 if is_smoke else NEEDS[kind])


def count_rows(launch: memory.CountedLaunch, device: torch.device) -> list[dict[str, Any]]:
    """Predicted beside counted, as rows."""
    if device.type != "cuda":
        return memory.compared(launch, "there is no GPU to count on", "")
    major, minor = torch.cuda.get_device_capability(device)
    predicted = memory.predictions(10 * major + minor)
    if isinstance(predicted, dict):
        predicted = predicted.get(launch.name, f"{launch.name} is not predicted")
    return memory.compared(launch, predicted, memory.measure(launch))


def kernel_names() -> list[str]:
    """Folder and name of every kernel of the package: what Triton launches, not what it inlines."""
    from triton.runtime import JITFunction
    from triton.runtime.interpreter import InterpretedFunction

    found = []
    folder = Path(kernels.__file__).parent
    for path in sorted(folder.rglob("*triton*.py")):
        place = f"{path.parent.name}.{path.stem}"
        module = import_module(f"kernels.{place}")
        for name, value in vars(module).items():
            is_own = getattr(value, "fn", None) is not None and value.fn.__module__.endswith(place)
            if (
                isinstance(value, JITFunction | InterpretedFunction)
                and is_own
                and name.endswith("_kernel")
            ):
                found.append(f"{path.parent.name}.{name}")
    return found


@contextmanager
def noted_launches(launched: Counter[str]) -> Iterator[None]:
    """Inside, launches through Triton are counted by folder and name of the kernel."""
    from triton.runtime import JITFunction
    from triton.runtime.interpreter import InterpretedFunction

    def noting(run: Callable[..., Any]) -> Callable[..., Any]:
        def noted(function: Any, *arguments: Any, **options: Any) -> Any:
            result = run(function, *arguments, **options)
            folder = function.fn.__module__.split(".")[-2:][0]
            launched[f"{folder}.{function.fn.__name__}"] += 1
            return result

        return noted

    with (
        mock.patch.object(JITFunction, "run", noting(JITFunction.run)),
        mock.patch.object(InterpretedFunction, "run", noting(InterpretedFunction.run)),
    ):
        yield
