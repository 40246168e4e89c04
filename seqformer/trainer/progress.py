"""What a run tells its user: one line of progress, log.jsonl, and the loss curve.

Losses stay on the device between two lines of the log; `LossWindow` brings them over in one copy.
"""

from __future__ import annotations

import io
import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from seqformer.command import leave_output
from seqformer.files import append_line, write_bytes, write_text
from seqformer.trainer.bad_steps import BadStep
from seqformer.trainer.parallel import Parallel
from seqformer.trainer.tensorboard import Board

logger = logging.getLogger(__name__)

LOG_NAME = "log.jsonl"


@dataclass
class LossWindow:
    """The steps since the last fetch, on the device, and since the last log line, on the host."""

    parallel: Parallel
    fetched: list[dict[str, float]] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _pending: list[tuple[int, list[str], Tensor]] = field(default_factory=list)

    def add(self, step: int, clip_ids: list[str], losses: dict[str, Tensor]) -> None:
        """Remember a step's scalars, `loss`, `grad_norm` and `skipped` among them, without waiting
        for any."""
        self._names = self._names or list(losses)
        values = torch.stack([losses[name].detach().float() for name in self._names])
        self._pending.append((step, clip_ids, values))

    def fetch(self) -> tuple[list[BadStep], int]:
        """Bring all pending steps to the host, as the mean over processes, in one copy.

        Every process must call this at the same step.

        Returns: the skipped steps, which leave no trace in the means, and the number of others.
        """
        if not self._pending:
            return [], 0
        own = torch.stack([values for _, _, values in self._pending])
        both = torch.stack([own, self.parallel.mean(own.clone())]).tolist()
        pending, self._pending = self._pending, []
        bad = []
        for (step, clip_ids, _), own_row, mean_row in zip(pending, *both, strict=True):
            losses = dict(zip(self._names, mean_row, strict=True))
            if losses.pop("skipped"):
                mine = dict(zip(self._names, own_row, strict=True))
                bad.append(BadStep.of(step, self.parallel.gather((mine, clip_ids))))
            else:
                self.fetched.append(losses)
        return bad, len(pending) - len(bad)

    def take_mean(self) -> dict[str, float]:
        """Mean of every scalar over the fetched steps, which are then forgotten; empty if none."""
        steps, self.fetched = self.fetched, []
        if not steps:
            return {}
        return {name: math.fsum(s[name] for s in steps) / len(steps) for name in steps[0]}


class Clock:
    """Where the time goes.

    Attributes:
        seconds_before: spent on this run by earlier sessions.
    """

    def __init__(self) -> None:
        self.seconds_before = 0.0
        self._began = time.perf_counter()
        self.start(0)

    def start(self, step: int) -> None:
        """Training begins, or goes on, at this step."""
        self._started = self._lap_started = time.perf_counter()
        self._first_step = self._lap_step = step
        self._waited = 0.0

    def seconds(self) -> float:
        """Time spent on the run, earlier sessions included."""
        return self.seconds_before + time.perf_counter() - self._began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, training waits for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, something other than training happens, which counts for no rate."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self._started += seconds
        self._lap_started += seconds

    def lap(self, step: int, total_steps: int, clips_per_step: int) -> dict[str, float]:
        """Time so far, and speed, share of waiting and time left as of the last lap."""
        now = time.perf_counter()
        seconds = max(now - self._lap_started, 1e-9)
        clips = (step - self._lap_step) * clips_per_step
        seconds_per_step = (now - self._started) / max(1, step - self._first_step)
        numbers = {
            "time": self.seconds(),
            "clips_per_second": clips / seconds,
            "data_wait": min(1.0, self._waited / seconds),
            "eta_seconds": (total_steps - step) * seconds_per_step,
        }
        self._lap_started, self._lap_step, self._waited = now, step, 0.0
        return numbers


class RunLog:
    """log.jsonl and the progress line; does nothing except on rank 0.

    Args:
        output: the run's folder.
        total_steps: length of the run.
        first_step: step the run starts from; later lines of an earlier attempt are dropped.
        enabled: whether this process logs.
        board: where training lines go too.
    """

    def __init__(
        self,
        output: Path,
        total_steps: int,
        first_step: int,
        enabled: bool,
        board: Board | None = None,
    ) -> None:
        self.path, self._board = output / LOG_NAME, board
        self.total_steps = total_steps
        self.enabled = enabled
        self._bar: tqdm | None = None
        if not enabled:
            return
        _drop_lines_after(self.path, first_step)
        if sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.update()

    def line(self, record: dict) -> None:
        """Append one line to log.jsonl; nine digits tell any two float32 numbers apart.

        Raises: WriteError.
        """
        if not self.enabled:
            return
        rounded = {k: float(f"{v:.9g}") if isinstance(v, float) else v for k, v in record.items()}
        append_line(self.path, json.dumps(rounded))

    def training_line(self, record: dict) -> None:
        """One line to log.jsonl and the same, shorter, to the terminal."""
        if not self.enabled:
            return
        self.line(record)
        if self._board is not None:
            self._board.scalars(record)
        parts = " ".join(
            f"{short} {record[name]:.3f}" for name, short in _SHORT.items() if name in record
        )
        text = (
            f"loss {record['loss']:.3f} ({parts})  lr {record['lr']:.2e}  "
            f"{record['clips_per_second']:.2f} clips/s  data {record['data_wait']:.0%}  "
            f"{record['memory_gb']:.1f} GB"
        )
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
        else:
            logger.info(
                "step %d/%d  %s  ETA %s",
                record["step"],
                self.total_steps,
                text,
                tqdm.format_interval(record["eta_seconds"]),
            )

    def close(self) -> None:
        """End the progress line."""
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()


_SHORT = {
    "loss_ce": "class",
    "loss_bbox": "box",
    "loss_giou": "giou",
    "loss_mask": "mask",
    "loss_dice": "dice",
}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; none where there is no file.

    Lines that are not objects with a step are left out: one that was being written when the run was
    killed, and what else may have come into the file.
    """
    if not path.is_file():
        return []
    records = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and type(record.get("step")) is int:
            records.append(record)
    return records


def _drop_lines_after(path: Path, step: int) -> None:
    """Forget what an interrupted run logged after its last checkpoint, so no step appears twice.

    Raises: WriteError.
    """
    if not path.is_file():
        return
    kept = [record for record in read_log(path) if record["step"] <= step]
    num_lines = len(path.read_bytes().splitlines())
    num_later = sum(record["step"] > step for record in read_log(path))
    if num_lines - num_later - len(kept) > 1:
        logger.warning(
            "%s had %d damaged lines, which are left out", path, num_lines - num_later - len(kept)
        )
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def read_training_lines(path: Path) -> list[dict[str, Any]]:
    """The training lines of a log.jsonl: those with a loss, a number as everything they name."""
    return [r for r in read_log(path) if isinstance(r.get("loss"), (int, float))]


def memory_gb(device: torch.device) -> float:
    """Largest memory so far: of the CUDA allocator on a GPU, else of this process (resident)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows does not say
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, KiB on Linux


def plot_losses(log_path: Path, png_path: Path) -> None:
    """The total loss and the last layer's parts over the steps, as a PNG.

    Raises: WriteError.
    """
    records = read_training_lines(log_path)
    if not records:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    total, parts = figure.subplots(1, 2)
    steps = [r["step"] for r in records]
    total.plot(steps, [r["loss"] for r in records], color="black")
    total.set(title="total loss", xlabel="step", yscale="log")
    for name, short in _SHORT.items():
        if name in records[0]:
            values = [r.get(name) for r in records]
            values = [v if isinstance(v, (int, float)) else math.nan for v in values]
            parts.plot(steps, values, label=short)
    parts.set(title="last decoder layer, unweighted", xlabel="step", yscale="log")
    if parts.lines:
        parts.legend()
    for axes in (total, parts):
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_bytes(png_path, picture.getvalue())


def setup_logging(is_main: bool) -> None:
    """INFO on rank 0, warnings elsewhere. Lines go around the progress bar, to stdout; warnings to
    stderr."""
    handler = _TqdmHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    package = logging.getLogger("seqformer")
    package.handlers[:] = [handler]
    package.propagate = False
    package.setLevel(logging.INFO if is_main else logging.WARNING)


class _TqdmHandler(logging.Handler):
    """To standard output as long as somebody takes it: a run does not end with its terminal."""

    is_read = True

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            with suppress(OSError, ValueError):
                tqdm.write(self.format(record), file=sys.stderr)
                sys.stderr.flush()
            return
        if not self.is_read:
            return
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            self.is_read = False
            leave_output()
            with suppress(OSError, ValueError):
                sys.stderr.write(
                    f"standard output cannot be written any more ({error.strerror}); the run goes "
                    f"on, and so does its {LOG_NAME}\n"
                )
