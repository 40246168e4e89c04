"""log.jsonl and the progress line of a run."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from seqformer.files import append_line, write_text
from seqformer.trainer.loggers import RunLoggers

logger = logging.getLogger(__name__)

LOG_NAME = "log.jsonl"


class RunLog:
    """log.jsonl and the progress line; does nothing except on rank 0.

    Args:
        output: the run's folder.
        total_steps: length of the run.
        first_step: step the run starts from; later lines of an earlier attempt are dropped.
        enabled: whether this process logs.
        loggers: where training lines go too.
    """

    def __init__(
        self,
        output: Path,
        total_steps: int,
        first_step: int,
        enabled: bool,
        loggers: RunLoggers | None = None,
    ) -> None:
        self.path, self._loggers = output / LOG_NAME, loggers or RunLoggers()
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
        self._loggers.scalars(record)
        parts = " ".join(
            f"{short} {record[name]:.3f}" for name, short in SHORT_NAMES.items() if name in record
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
        self._loggers.close()


SHORT_NAMES = {
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
