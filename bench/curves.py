"""The original code learns beside ours: the same start, the same clips, each its own steps.

    SEQFORMER_PUBLIC=FOLDER python -m bench.curves     # 3 seeds; goes on if stopped

For each seed a small model with random weights is trained on drawn videos, once by
`seqformer.trainer` and once by the original model, matcher and losses in a loop of their own, with
PyTorch's AdamW and clipping as there. Both read the batches of our loader. A third run, by our
trainer, starts from weights that are changed in their last bits: so far apart roundings bring two
trainings. Losses of all steps are kept, and the final weights are scored on held-out videos. The
record is `bench/results/curves.json`; from it the figure and the table of `docs/curves.md` are
written.

`FOLDER/public.py` offers, beside what `bench.baselines.original` says,
`build_small(config, backbone, channels, num_frames)`, a module with the published state dict around
a backbone of ours [n, 3, H, W] -> four maps at strides 2, 4, 8, 16, and
`train_step_padded(model, images, padding_mask, targets)` -> (losses, weighted total). The original
code is not in this repository.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.axes import Axes
from torch import Tensor, nn

from bench.baselines import original
from bench.demo import run
from bench.report.study import FOLDERS, StudyOptions, by_seed, draw_seeds, render, write_record
from seqformer.config import (
    AugmentConfig,
    DataConfig,
    LoggingConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    override,
)
from seqformer.data.loader import build_train_loader
from seqformer.data.synthetic import SyntheticPaths, make_synthetic_dataset
from seqformer.files import write_json
from seqformer.model import SeqFormer, save_safetensors, to_published
from seqformer.structures import ClassMap, ClipTargets
from seqformer.trainer.run_log import read_training_lines

RECORD, PAGE = FOLDERS[0] / "curves.json", FOLDERS[1] / "curves.md"
ARMS = {
    "ours": "this code",
    "original": "the original code",
    "nudged": "this code, start changed by 1e-7",
}
NUDGE = 1e-7
"""Relative change of every weight: what a rounding does to a training."""


WINDOW = 20
"""Steps whose losses are averaged to a point of a curve."""


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """Train both from the same weights, and compare."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights, order and augmentation; the data is the same."""
    steps: int = 240
    """Of every run."""
    folder: Path = Path("runs/curves")
    """Where the runs lie; those that are finished are not made again."""
    out: Path = RECORD
    page: Path = PAGE

    def __post_init__(self) -> None:
        if len(self.seeds) < 2 or self.steps % WINDOW:
            raise ValueError(
                f"give 2 seeds or more, and a multiple of {WINDOW} as steps, got "
                f"{len(self.seeds)} and {self.steps}"
            )


def draw_data(root: Path) -> SyntheticPaths:
    """The videos of all runs."""
    sizes = {"num_frames": 8, "height": 64, "width": 96}
    return make_synthetic_dataset(root / "data", num_train=60, num_val=20, seed=7, **sizes)


def config_of(data: SyntheticPaths, seed: int, steps: int, output: Path) -> TrainConfig:
    """A small model of the published widths, at a constant rate as before the published drop."""
    return TrainConfig(
        output=output,
        max_steps=steps,
        seed=seed,
        device="cpu",
        logging=LoggingConfig(log_every=1),
        model=ModelConfig(
            backbone="resnet_mini",
            num_encoder_layers=1,
            num_decoder_layers=2,
            ffn_dim=256,
            num_queries=10,
            dropout=0.0,
        ),
        data=DataConfig(
            train_images=data.train_images,
            train_annotations=data.train_annotations,
            num_frames=2,
            batch_size=4,
            num_workers=0,
            cache_frames=True,
            augment=AugmentConfig(
                photometric=False, short_sides=(64,), max_long_side=96, crop_prob=0.0
            ),
        ),
        optim=OptimConfig(
            lr=5e-4,
            lr_backbone=5e-4,
            lr_linear_proj_mult=0.5,
            clip_max_norm=1.0,
            schedule="step",
            lr_drop_epochs=(),
        ),
    )


def start_of(config: TrainConfig, classes: ClassMap) -> SeqFormer:
    """The model before the first step."""
    torch.manual_seed(config.seed)
    return SeqFormer(replace(config.model, num_classes=classes.num_classes))


def train_ours(config: TrainConfig, start: SeqFormer, classes: ClassMap) -> list[float]:
    """Returns: the loss of every step; the weights lie in the run's folder."""
    from seqformer.trainer.trainer import train

    path = config.output.with_suffix(".start.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_safetensors(path, start, classes)
    train(override(config, weights=path, drop_class_heads=False))
    return [line["loss"] for line in read_training_lines(config.output / "log.jsonl")]


def train_nudged(config: TrainConfig, start: SeqFormer, classes: ClassMap) -> list[float]:
    """`train_ours` from weights that differ in their last bits."""
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.mul_(1 + NUDGE * (2 * torch.rand_like(parameter) - 1))
    return train_ours(config, start, classes)


def train_original(config: TrainConfig, start: SeqFormer, classes: ClassMap) -> list[float]:
    """The same by the original code; the weights are kept under our names."""
    code = original.load(Path(os.environ[original.VARIABLE]))
    backbone = copy.deepcopy(start.backbone)
    channels = backbone.channels[1:]
    model: nn.Module = code.build_small(start.config, backbone, channels, config.data.num_frames)
    model.load_state_dict(to_published(start))
    model.train()
    optimizer = torch.optim.AdamW(
        original_groups(model, config), weight_decay=config.optim.weight_decay
    )
    losses = []
    for images, padding_mask, targets in batches_of(config):
        total = code.train_step_padded(model, images, padding_mask, targets)[1]
        losses.append(float(total.detach()))
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_max_norm)
        optimizer.step()
    trained = copy.deepcopy(start)
    published = to_published(trained)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            published[name].copy_(value)
    config.output.mkdir(parents=True)
    save_safetensors(config.output / "model.safetensors", trained, classes)
    return losses


def original_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Parameters by the names that the original's main file looks for."""
    rates = {
        "backbone.0": config.optim.lr_backbone,
        "reference_points": config.optim.lr * config.optim.lr_linear_proj_mult,
        "sampling_offsets": config.optim.lr * config.optim.lr_linear_proj_mult,
    }
    rate_of = lambda name: next((r for key, r in rates.items() if key in name), config.optim.lr)  # noqa: E731
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"lr": rate, "params": [p for name, p in named if rate_of(name) == rate]}
        for rate in sorted({rate_of(name) for name, _ in named})
    ]


def batches_of(config: TrainConfig) -> Iterator[tuple[Tensor, Tensor, list[dict[str, Any]]]]:
    """What the trainer reads, step by step; targets as the original takes them."""
    loader, _ = build_train_loader(config.data, config.seed)
    left, epoch = config.max_steps, 0
    while left:
        loader.batch_sampler.set_epoch(epoch, 0)
        for batch in loader:
            yield batch.images, batch.padding_mask, [flat(t) for t in batch.targets]
            left -= 1
            if not left:
                return
        epoch += 1


def flat(target: ClipTargets) -> dict[str, Any]:
    """Boxes and masks with instance and frame in one dimension."""
    return {
        "labels": target["labels"],
        "boxes": target["boxes"].flatten(0, 1),
        "masks": target["masks"].flatten(0, 1),
        "size": torch.tensor(target["size"]),
    }


def rows_of(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each arm and seed."""
    root = options.folder.resolve()
    data = draw_data(root)
    trainers = {"ours": train_ours, "original": train_original, "nudged": train_nudged}
    for seed in options.seeds:
        for arm, train in trainers.items():
            output = root / f"seed_{seed}_{arm}"
            done = root / f"seed_{seed}_{arm}.json"
            if not done.is_file():
                config = config_of(data, seed, options.steps, output)
                classes = build_train_loader(config.data, seed)[1]
                losses = train(config, start_of(config, classes), classes)
                row = {"arm": arm, "seed": seed, "losses": losses, "AP": score(output, data)}
                write_json(done, row)
            yield json.loads(done.read_text(encoding="utf-8"))


def score(folder: Path, data: SyntheticPaths) -> float:
    """AP of a run's weights on the held-out videos, in 0..1."""
    metrics = folder / "metrics_held_out.json"
    run(
        *("eval.py", "--weights", str(folder / "model.safetensors"), "--short-side", "64"),
        *("--images", str(data.val_images), "--annotations", str(data.val_annotations)),
        *("--output", str(folder / "results.json"), "--metrics", str(metrics)),
        *("--device", "cpu", "--threads", "1"),
    )
    return json.loads(metrics.read_text(encoding="utf-8"))["AP"]


def curve(losses: Sequence[float]) -> list[float]:
    """Means over windows of `WINDOW` steps."""
    return [statistics.fmean(losses[i : i + WINDOW]) for i in range(0, len(losses), WINDOW)]


def curves_of(rows: Sequence[dict[str, Any]], arm: str) -> list[list[float]]:
    """The curve of every seed, [seeds, windows]."""
    return [curve(row["losses"]) for row in by_seed(rows, arm)]


def within(curves: Sequence[Sequence[float]], band: Sequence[Sequence[float]]) -> tuple[int, int]:
    """Of the points of the mean of some curves, how many lie in the seed band of others: between
    the least and the largest of their seeds. Returns: those that do, and all."""
    means = [statistics.fmean(point) for point in zip(*curves, strict=True)]
    edges = [(min(point), max(point)) for point in zip(*band, strict=True)]
    inside = [low <= mean <= high for mean, (low, high) in zip(means, edges, strict=True)]
    return sum(inside), len(inside)


def page(record: dict[str, Any], figure: str) -> str:
    """The page of a record, as Markdown.

    Args:
        figure: file name of the figure beside it.
    """
    rows, steps = record["rows"], record["settings"]["steps"]
    curves = {arm: curves_of(rows, arm) for arm in ARMS}
    lines = []
    for arm, title in ARMS.items():
        each = ", ".join(f"{100 * row['AP']:.1f}" for row in by_seed(rows, arm))
        last = ", ".join(f"{points[-1]:.2f}" for points in curves[arm])
        lines.append(f"| {title} | {each} | {last} |")
    first = max(
        abs(a["losses"][0] / b["losses"][0] - 1)
        for a in rows
        for b in rows
        if a["seed"] == b["seed"] and (a["arm"], b["arm"]) == ("ours", "original")
    )
    (in_theirs, points), (in_ours, _) = (
        within(curves["ours"], curves["original"]),
        within(curves["original"], curves["ours"]),
    )
    scores = {(row["arm"], row["seed"]): row["AP"] for row in rows}
    moved = max(abs(scores["ours", seed] - scores["nudged", seed]) for _, seed in scores)
    apart = {arm: distance(curves["ours"], curves[arm]) for arm in ("original", "nudged")}
    return f"""# Two codes, one training

`python -m bench.curves` trains a small model on drawn videos for {steps} steps, from the same
weights and on the same clips: once by this code's trainer, once by the original model, matcher and
losses (its repository, with PyTorch's AdamW and clipping; it is not part of this one). A third
training, by this code, starts from weights that are changed by a ten-millionth.

| trained by | AP by seed | mean loss of the last {WINDOW} steps by seed |
|---|---|---|
{chr(10).join(lines)}

![Loss over the steps, {len(curves["ours"])} seeds of each]({figure})

The first losses of both codes differ by at most {first:.1e} of their value. Later ones drift apart,
as any two trainings do of which one is rounded otherwise: over points of {WINDOW} steps the
original is {100 * apart["original"]:.1f} % away from this code in the mean, and this code
{100 * apart["nudged"]:.1f} % from itself after the change of the start. Of {points} points, our
mean over the seeds lies between the least and the largest of the original's seeds at {in_theirs},
and its mean between ours at {in_ours}. The AP of so short a training is coarse: the change of the
start alone moves it by up to {100 * moved:.1f} points.

Measured on {record["machine"]}. The learning rate is constant, dropout is off, and
both read the batches of our loader.
"""


def distance(ours: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Mean relative difference of the points of the same seed."""
    pairs = [pair for a, b in zip(ours, others, strict=True) for pair in zip(a, b, strict=True)]
    return statistics.fmean(abs(b / a - 1) for a, b in pairs)


def draw(record: dict[str, Any], axes: Axes) -> None:
    """Loss over the steps."""
    for number, arm in enumerate(("ours", "original")):
        curves = curves_of(record["rows"], arm)
        steps = [WINDOW * (i + 0.5) for i in range(len(curves[0]))]
        draw_seeds(axes, number, steps, curves, linewidth=2.0, label=ARMS[arm])
    axes.set_xlabel("steps")
    axes.set_ylabel("loss")


def main(options: Options) -> int:
    """Train what is missing, then write record, page and figure. Returns: the exit code."""
    if not options.render:
        if not original.is_available(torch.device("cpu")):
            raise ValueError(
                f"{original.VARIABLE} must name a folder with the original code's public.py"
            )
        rows = []
        for row in rows_of(options):
            print(f"seed {row['seed']}, {ARMS[row['arm']]}: AP {100 * row['AP']:.1f}", flush=True)
            rows.append(row)
        settings = {"steps": options.steps, "seeds": list(options.seeds)}
        write_record(options.out, rows, settings=settings)
    render(options, page, draw)
    return 0


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.curves", lambda: main(tyro.cli(Options, description=__doc__)))
