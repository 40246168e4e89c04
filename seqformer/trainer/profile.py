"""`train.py PRESET --profile`: where the time of a step goes, as a trace and as a table."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import TracebackType

import torch
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
        averages = finished.key_averages()
        found = {event.key: event for event in averages if event.key in PHASES}
        seconds = {
            name: (event.device_time_total if on_gpu else event.cpu_time_total) / 1e6 / ACTIVE
            for name, event in found.items()
        }
        step = self._seconds / ACTIVE
        lines = [f"{'step':16}{1000 * step:10.1f} ms   100.0 %"]
        for name in PHASES:
            if name in seconds:
                share = seconds[name] / step
                lines.append(
                    f"{name.split('/')[1]:16}{1000 * seconds[name]:10.1f} ms {100 * share:7.1f} %"
                )
        rest = step - sum(seconds.values())
        lines.append(f"{'anything else':16}{1000 * rest:10.1f} ms {100 * rest / step:7.1f} %")
        where = "on the GPU" if on_gpu else "on the CPU"
        table = averages.table(
            sort_by="self_device_time_total" if on_gpu else "self_cpu_time_total", row_limit=TOP
        )
        head = "\n".join(lines)
        text = f"Mean of {ACTIVE} steps, {where}\n\n{head}\n\n{table}\n"
        write_text(self._folder / f"table_rank{self._rank}.txt", text)
        logger.info("profile of %d steps in %s\n%s", ACTIVE, self._folder, head)
