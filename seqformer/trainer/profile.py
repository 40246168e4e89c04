"""`train.py PRESET --profile`: where the time of a step goes, as a trace and as a table."""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, schedule

from seqformer.files import replacing, write_text, writing_to

logger = logging.getLogger(__name__)

WARM_UP, ACTIVE = 3, 3
PHASES = (
    "step/data",
    "step/forward",
    "step/losses",
    "step/recompute",
    "step/backward",
    "step/update",
)
"""Ranges that the training loop and the step mark."""
TOP = 30


class StepProfiler:
    """Watches a few steps after some for warming up; does nothing unless enabled.

    Every process writes its own files: `profile/trace_rank0.json` for chrome://tracing or Perfetto,
    `profile/table_rank0.txt` to read.
    """

    def __init__(self, output: Path, device: torch.device, *, enabled: bool, rank: int = 0) -> None:
        """
        Args:
            output: the run's folder.
            device: where the steps run.
            enabled: whether to profile.
            rank: of this process.
        """
        self._folder, self._device, self._rank = output / "profile", device, rank
        self._steps = 0
        self._profile: profile | None = None
        if enabled:
            activities = [ProfilerActivity.CPU]
            if device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(
                activities=activities,
                schedule=schedule(wait=1, warmup=WARM_UP - 1, active=ACTIVE),
                on_trace_ready=self._write,
            )

    def __enter__(self) -> StepProfiler:
        if self._profile is not None:
            self._profile.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._profile is not None:
            self._profile.stop()

    def has_seen_enough(self) -> bool:
        """A step is done. Returns: whether the profile is complete."""
        if self._profile is None:
            return False
        self._steps += 1
        if self._steps == WARM_UP:
            self._began = self._now()
        elif self._steps == WARM_UP + ACTIVE:
            self._seconds = self._now() - self._began
        self._profile.step()
        return self._steps >= WARM_UP + ACTIVE

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _write(self, finished: profile) -> None:
        trace = self._folder / f"trace_rank{self._rank}.json"
        with writing_to(trace):
            self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(trace) as temporary:
            finished.export_chrome_trace(str(temporary))
        on_gpu = self._device.type == "cuda"
        head = "\n".join(table(finished.events(), self._seconds / ACTIVE, ACTIVE, on_gpu))
        averages = finished.key_averages()
        where = "on the GPU" if on_gpu else "on the CPU"
        operators = averages.table(
            sort_by="self_device_time_total" if on_gpu else "self_cpu_time_total", row_limit=TOP
        )
        text = f"Mean of {ACTIVE} steps, {where}\n\n{head}\n\n{operators}\n"
        write_text(self._folder / f"table_rank{self._rank}.txt", text)
        logger.info("profile of %d steps in %s\n%s", ACTIVE, self._folder, head)


def phase_seconds(events: Iterable[FunctionEvent], steps: int) -> dict[str, tuple[float, float]]:
    """Mean seconds of every phase of a step: of the host, and of the GPU's kernels.

    A kernel belongs to the phase in which it was launched, by whatever thread: autograd launches
    those of the backward pass in a thread of its own, whose operators are no children of the phase.

    Returns: name -> (host, GPU) in the order of `PHASES`; kernels of no phase under "".
    """
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in on_host
        if event.name in PHASES
    )
    starts = [start for start, _, _ in spans]
    host = dict.fromkeys(PHASES, 0.0)
    gpu = dict.fromkeys((*PHASES, ""), 0.0)
    for start, end, name in spans:
        host[name] += end - start
    for event in on_host:
        index = bisect_right(starts, event.time_range.start) - 1
        is_inside = index >= 0 and event.time_range.start <= spans[index][1]
        gpu[spans[index][2] if is_inside else ""] += sum(k.duration for k in event.kernels)
    present = {name for _, _, name in spans}
    times = {n: (host[n], gpu[n]) for n in PHASES if n in present} | {"": (0.0, gpu[""])}
    return {name: (a / 1e6 / steps, b / 1e6 / steps) for name, (a, b) in times.items()}


def table(events: Iterable[FunctionEvent], step: float, steps: int, on_gpu: bool) -> list[str]:
    """The lines of the table of phases.

    Args:
        events: of the profiler.
        step: wall seconds of a step, and `steps`, how many there were.
        on_gpu: with two columns. The host's shows where it waits, for data above all; the GPU's,
            where its kernels come from, and how long it has none.
    """
    seconds = phase_seconds(events, steps)
    names = [name for name in seconds if name]
    host = {name.split("/")[1]: seconds[name][0] for name in names}
    if not on_gpu:
        rows = {"step": step} | host | {"anything else": step - sum(host.values())}
        return [f"{name:16}{_time(value, step)}" for name, value in rows.items()]
    gpu = {name.split("/")[1]: seconds[name][1] for name in names}
    other, idle = seconds[""][1], step - sum(kernels for _, kernels in seconds.values())
    lines = [f"{'':16}{'host':>23}{'GPU':>23}", f"{'step':16}{_time(step, step)}"]
    lines += [f"{name:16}{_time(host[name], step)}{_time(gpu[name], step)}" for name in host]
    rest = step - sum(host.values())
    lines.append(f"{'anything else':16}{_time(rest, step)}{_time(other, step)}")
    return [*lines, f"{'no kernel':16}{'':23}{_time(idle, step)}"]


def _time(seconds: float, step: float) -> str:
    """23 characters: milliseconds and share of a step."""
    return f"{1000 * seconds:10.1f} ms {100 * seconds / step:7.1f} %"
