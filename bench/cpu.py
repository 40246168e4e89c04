"""Training step and inference on the CPU: our formulation beside the published one.

    python -m bench.cpu                         # ours and bench.published
    python -m bench.cpu --public FOLDER         # and the original code, run by FOLDER/public.py

All sides share one set of weights and one input, and take turns in one process: one warm-up each,
then `repeat` rounds. What counts is processor time of the process on one thread, as a median; wall
time on two threads is measured afterwards and shown beside it. Peak memory growth is measured in a
fresh process per side. A training step is forward, losses and backward; inference goes from
normalised frames to logits, boxes and the masks of the output queries, for which the published
formulation draws all queries in all layers.

`FOLDER/public.py` offers `build("r50", num_classes, num_frames)`, a module with the published state
dict; `train_step(model, clips, targets)` -> (losses, weighted total) with clips a list of
[T, 3, H, W] and masks and boxes of the targets flattened over instance and frame; and
`infer(model, frames, details=False)` -> a dict with `pred_logits`, `pred_boxes`, `pred_masks`.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from bench.published import published_inference, published_training_losses
from seqformer.config import EvalConfig
from seqformer.criterion import SetCriterion
from seqformer.model import SeqFormer, build_model, render_masks, to_published
from seqformer.structures import ClipTargets

REPOSITORY = Path(__file__).resolve().parent.parent
NUM_OUTPUT_QUERIES = EvalConfig().top_k
"""Queries with masks at inference; the most that `Predictor` can output."""

Task = Literal["training", "inference"]
Side = Literal["ours", "published", "public"]
TASKS: tuple[Task, ...] = ("training", "inference")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time our training step and inference against the published formulation on the CPU."""

    public: Path | None = None
    """Folder with a `public.py` that runs the original code (see the module's text)."""
    repeat: int = 5
    """Measured rounds; the median counts."""
    wall_repeat: int = 3
    """Rounds on two threads; 0 leaves them out."""
    task: Literal["both", "training", "inference"] = "both"
    """What to measure."""
    memory: bool = True
    """Measure peak memory as well, in fresh processes."""
    smoke: bool = False
    """A tiny model and tiny frames: shows that everything runs, measures nothing."""
    out: Path | None = None
    """Write the measurements as JSON here."""

    def __post_init__(self) -> None:
        if self.repeat < 1 or self.wall_repeat < 0:
            raise ValueError(
                f"repeat must be at least 1 and wall_repeat at least 0, got {self.repeat} and "
                f"{self.wall_repeat}"
            )
        if self.smoke and self.public:
            raise ValueError("--smoke uses a tiny model, which the public code cannot build")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Model and input sizes of both tasks."""

    height: int = 192
    width: int = 320
    train_frames: int = 5
    infer_frames: int = 10
    instances: int = 6
    backbone: str = "resnet50"
    model: dict[str, int] = field(default_factory=dict)
    """Fields of `ModelConfig` that differ from the published model."""


SMOKE = Case(
    height=64,
    width=96,
    train_frames=2,
    infer_frames=3,
    instances=2,
    backbone="resnet_mini",
    model={
        "hidden_dim": 64,
        "num_heads": 4,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "ffn_dim": 64,
        "num_queries": 20,
    },
)


def randomise(model: SeqFormer) -> SeqFormer:
    """Give every weight matrix that starts at zero small random values, so that sampling points
    scatter, boxes move and all gradients flow, as in a trained model. In place."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.5 / parameter.shape[1] ** 0.5)
    return model


def moving_rectangles(
    count: int,
    num_frames: int,
    size: tuple[int, int],
    num_classes: int,
    generator: torch.Generator,
) -> ClipTargets:
    """Targets of a clip: axis-parallel rectangles, each with a velocity."""
    H, W = size

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 2, generator=generator)

    time_axis = torch.arange(num_frames)[None, :, None]
    centre = uniform(0.3, 0.7) + uniform(-0.02, 0.02) * time_axis
    boxes = torch.cat([centre, uniform(0.16, 0.4).expand_as(centre)], dim=-1)  # [N, T, 4]
    x, y = (torch.arange(n) + 0.5 for n in (W, H))
    x = (x / W - boxes[..., :1]).abs() < boxes[..., 2:3] / 2  # [N, T, W]
    y = (y / H - boxes[..., 1:2]).abs() < boxes[..., 3:] / 2  # [N, T, H]
    return {
        "labels": torch.randint(1, num_classes - 1, (count,), generator=generator),
        "boxes": boxes,
        "masks": y[..., None] & x[..., None, :],
        "size": (H, W),
    }


def our_training_losses(
    model: SeqFormer, images: Tensor, padding_mask: Tensor | None, targets: list[ClipTargets]
) -> dict[str, Tensor]:
    """A training step's losses as the trainer computes them."""
    return SetCriterion()(model(images, padding_mask), targets)


@torch.inference_mode()
def our_inference(
    model: SeqFormer, images: Tensor, num_queries: int = NUM_OUTPUT_QUERIES
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `Predictor` asks of the network: masks of the best queries only, one after another.

    Args:
        model: in evaluation mode.
        images: [1, T, 3, H, W] normalised.
        num_queries: n, masks to draw.

    Returns: class_logits [Q, K], boxes [T, Q, 4], mask logits [n, T, h4, w4] and the queries [n]
        they belong to.
    """
    output = model(images, last_layer_only=True)
    class_logits = output.class_logits[-1, 0]
    queries = class_logits.amax(-1).topk(num_queries).indices
    size = images.new_tensor([images.shape[-1], images.shape[-2]])
    only_clip = torch.zeros(1, dtype=torch.long)
    masks = [
        render_masks(
            output.mask_features,
            output.mask_params[-1, 0, query][None],
            (output.reference_points[-1, 0, :, query] * size)[None],
            only_clip,
            output.mask_stride,
        )
        for query in queries.tolist()
    ]
    return class_logits, output.boxes[-1, 0], torch.cat(masks), queries


def build_step(task: Task, side: Side, case: Case, public: Path | None) -> Callable[[], Any]:
    """One call is one training step or one video; the same weights and input for every side."""
    return _Bench(task, case, public).step(side)


class _Bench:
    """A model and an input, and the step of each side on them."""

    def __init__(self, task: Task, case: Case, public: Path | None) -> None:
        self.task, self.public = task, public
        torch.manual_seed(0)
        self.model = randomise(build_model(case.backbone, **case.model))
        self.model.train(task == "training")
        generator = torch.Generator().manual_seed(7)
        size = case.height, case.width
        num_frames = case.train_frames if task == "training" else case.infer_frames
        self.images = torch.randn(1, num_frames, 3, *size, generator=generator)
        self.padding_mask = torch.zeros(1, *size, dtype=torch.bool)
        num_classes = self.model.config.num_classes
        self.targets = [moving_rectangles(case.instances, num_frames, size, num_classes, generator)]

    def step(self, side: Side) -> Callable[[], Any]:
        if side == "public":
            return self._public_step()
        if self.task == "inference":
            infer = our_inference if side == "ours" else published_inference
            return lambda: infer(self.model, self.images)
        losses_of = our_training_losses if side == "ours" else published_training_losses
        criterion = SetCriterion()

        def train() -> float:
            self.model.zero_grad(set_to_none=True)
            losses = losses_of(self.model, self.images, self.padding_mask, self.targets)
            total = criterion.weighted_sum(losses)
            total.backward()
            return float(total.detach())

        return train

    def _public_step(self) -> Callable[[], Any]:
        if self.public is None:
            raise ValueError("the public side needs the folder of its public.py")
        code = _load_public(self.public)
        num_frames = self.images.shape[1]
        model = code.build("r50", self.model.config.num_classes, num_frames)
        model.load_state_dict(to_published(self.model))
        model.train(self.task == "training")
        clips = list(self.images)
        if self.task == "inference":
            return lambda: code.infer(model, clips[0], details=False)
        targets = [
            {
                "labels": t["labels"],
                "boxes": t["boxes"].flatten(0, 1),
                "masks": t["masks"].flatten(0, 1),
                "size": torch.tensor(t["size"]),
            }
            for t in self.targets
        ]

        def train() -> float:
            model.zero_grad(set_to_none=True)
            _, total = code.train_step(model, clips, targets)
            total.backward()
            return float(total.detach())

        return train


def _load_public(folder: Path) -> ModuleType:
    path = folder / "public.py"
    spec = importlib.util.spec_from_file_location("_public_code", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; --public needs the folder of a public.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peak_growth_in_fresh_process(
    task: Task, side: Side, case: Case, public: Path | None = None
) -> float | None:
    """Growth of resident memory during one call, in MiB; None where the system does not tell."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_growth, task, side, case, public).result()


def _peak_growth(task: Task, side: Side, case: Case, public: Path | None) -> float | None:
    """The same in this process. A tiny call first loads libraries and compiles what is compiled."""
    torch.set_num_threads(1)
    build_step(task, "published" if side == "public" else side, SMOKE, None)()
    return peak_growth_of(build_step(task, side, case, public))


def peak_growth_of(step: Callable[[], Any]) -> float | None:
    """MiB by which one call raises this process's peak; None where the system does not tell."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    before, peak_before = _resident_mib(), _peak_mib()
    reset = _reset_peak()
    step()
    peak = _peak_mib()
    if before is None or peak is None:
        return None
    if not reset and (peak_before is None or peak <= peak_before):
        return None  # the call stayed below an earlier peak, which cannot be told apart
    return max(peak - before, 0.0)


def _resident_mib() -> float | None:
    return _process_status("VmRSS:")


def _peak_mib() -> float | None:
    peak = _process_status("VmHWM:")
    if peak is not None or sys.platform == "win32":
        return peak
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _process_status(key: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), None)


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def measure(task: Task, sides: list[Side], case: Case, options: Options) -> dict[str, Any]:
    """Time all sides of a task in turns, then their memory one by one."""
    bench = _Bench(task, case, options.public)
    steps = {side: bench.step(side) for side in sides}
    with _threads(1):
        cpu = _in_turns(steps, options.repeat, time.process_time)
    wall: dict[Side, list[float]] = {side: [] for side in sides}
    if options.wall_repeat:
        with _threads(2):
            wall = _in_turns(steps, options.wall_repeat, time.perf_counter)
    rows = {}
    for side in sides:
        low, high = np.quantile(cpu[side], [0.2, 0.8]).tolist()
        rows[side] = {
            "cpu_median": statistics.median(cpu[side]),
            "cpu_p20": low,
            "cpu_p80": high,
            "cpu_seconds": cpu[side],
            "wall_median_two_threads": statistics.median(wall[side]) if wall[side] else None,
            "wall_seconds_two_threads": wall[side],
            "peak_growth_mib": None,
        }
    if options.memory:
        for side in sides:
            growth = peak_growth_in_fresh_process(task, side, case, options.public)
            rows[side]["peak_growth_mib"] = growth
    pairs = [("ours", "published"), ("published", "public"), ("ours", "public")]
    ratios = {f"{a} / {b}": _ratios(rows[a], rows[b]) for a, b in pairs if {a, b} <= set(sides)}
    return {"sides": rows, "ratios": ratios}


@contextmanager
def _threads(number: int):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_turns(
    steps: dict[Side, Callable[[], Any]], repeat: int, clock: Callable[[], float]
) -> dict[Side, list[float]]:
    """Seconds of each side's calls; the first round is a warm-up and not kept."""
    seconds: dict[Side, list[float]] = {side: [] for side in steps}
    for round_number in range(repeat + 1):
        for side, step in steps.items():
            gc.collect()
            start = clock()
            step()
            elapsed = clock() - start
            if round_number:
                seconds[side].append(elapsed)
    return seconds


def _ratios(a: dict[str, Any], b: dict[str, Any]) -> dict[str, float | None]:
    """Ratios of medians; `cpu_by_round` is the median of the rounds' ratios, which a machine that
    is busy for a while disturbs less."""
    names = {
        "cpu": "cpu_median",
        "wall_two_threads": "wall_median_two_threads",
        "peak_growth": "peak_growth_mib",
    }
    rounds = zip(a["cpu_seconds"], b["cpu_seconds"], strict=True)
    return {
        name: a[key] / b[key] if a[key] is not None and b[key] else None
        for name, key in names.items()
    } | {"cpu_by_round": statistics.median(x / y for x, y in rounds)}


def machine() -> dict[str, Any]:
    """What the numbers depend on."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no")),
        "cpu_model": models[0] if models else platform.processor(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def report(record: dict[str, Any]) -> str:
    """The record as a table."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    lines = []
    for task, result in record["tasks"].items():
        title = f"{task:28}"
        lines.append(f"{title}{'CPU s':>8}{'20..80 %':>16}{'wall s, 2 thr.':>16}{'peak + MiB':>12}")
        for side, row in result["sides"].items():
            spread = f"{row['cpu_p20']:.2f}..{row['cpu_p80']:.2f}"
            wall = number(row["wall_median_two_threads"], ".2f")
            peak = number(row["peak_growth_mib"], ".0f")
            lines.append(f"  {side:26}{row['cpu_median']:8.2f}{spread:>16}{wall:>16}{peak:>12}")
        for name, ratio in result["ratios"].items():
            cpu, wall, peak = (
                number(ratio[key], ".3f") for key in ("cpu", "wall_two_threads", "peak_growth")
            )
            by_round = f"{ratio['cpu_by_round']:.3f} by round"
            lines.append(f"  {name:26}{cpu:>8}{by_round:>16}{wall:>16}{peak:>12}")
    return "\n".join(lines)


def main(options: Options) -> None:
    case = SMOKE if options.smoke else Case()
    sides: list[Side] = ["ours", "published"] + (["public"] if options.public else [])
    tasks = TASKS if options.task == "both" else (options.task,)
    record: dict[str, Any] = {"machine": machine(), "case": asdict(case), "tasks": {}}
    for task in tasks:
        record["tasks"][task] = measure(task, sides, case, options)
    if hasattr(os, "getloadavg"):
        record["machine"]["load_average_at_end"] = os.getloadavg()
    print(report(record))
    load = record["machine"]["load_average"]
    if load:
        print(f"load average {', '.join(f'{value:.1f}' for value in load)} at the start")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options))
