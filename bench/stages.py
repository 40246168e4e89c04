"""Does the stage before help? Pictures then videos, against videos alone, on drawn data.

    python -m bench.stages              # 3 seeds, about 12 minutes of one core; goes on if stopped

For each seed `seqformer chain --demo` trains a small model on drawn pictures and then on videos and
pseudo-videos of the same classes. The same second stage, with the same seed, clips and steps, is
then trained from random weights. Checkpoints of both are scored on held-out videos. The record is
`bench/results/stages.json`; from it `docs/stages.md` and its figure are written.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from matplotlib.axes import Axes

from bench.demo import run
from bench.report.study import FOLDERS, StudyOptions, by_seed, draw_seeds, render, write_record

RECORD, PAGE = FOLDERS[0] / "stages.json", FOLDERS[1] / "stages.md"
ARMS = {"stills": "pictures, then videos", "videos": "videos alone"}
POINTS = 4
"""Checkpoints of a run that are scored, evenly spread."""
_STUDENT = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5 % quantile of Student's t by degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """Train with the stage before and without, and compare."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of weights, order and augmentation; the data is the same."""
    stills_steps: int = 300
    """Steps on pictures."""
    video_steps: int = 240
    """Steps on videos, with and without."""
    folder: Path = Path("runs/stages")
    """Where the runs lie; those that are finished are not made again."""
    out: Path = RECORD
    page: Path = PAGE

    def __post_init__(self) -> None:
        if len(self.seeds) - 1 not in _STUDENT or self.video_steps % POINTS:
            raise ValueError(
                f"give 3 to 10 seeds, and a multiple of {POINTS} as video_steps, got "
                f"{len(self.seeds)} and {self.video_steps}"
            )


def rows_of(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each arm and seed: the AP of its checkpoints."""
    root = options.folder.resolve()
    every = options.video_steps // POINTS
    for seed in options.seeds:
        chain = root / f"seed_{seed}"
        _share_data(root, chain)
        run(
            *("-m", "seqformer", "chain", "--demo", "--output", str(chain)),
            *("--both.seed", str(seed), "--both.device", "cpu"),
            *("--stills.max-steps", str(options.stills_steps)),
            *("--videos.max-steps", str(options.video_steps)),
            *("--videos.checkpoint-every", str(every), "--videos.keep-checkpoints", "9"),
        )
        alone = root / f"seed_{seed}_videos"
        if not (alone / "model.safetensors").is_file():
            run("-m", "bench.stages_alone", str(chain / "2_videos" / "config.json"), str(alone))
        for arm, folder in (("stills", chain / "2_videos"), ("videos", alone)):
            steps = [every * point for point in range(1, POINTS + 1)]
            scores = [score(folder, step, root / "data" / "videos") for step in steps]
            yield {"arm": arm, "seed": seed, "steps": steps, "AP": scores}


def _share_data(root: Path, chain: Path) -> None:
    """All chains draw into one folder, the first of them really."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    chain.mkdir(exist_ok=True)
    if not (chain / "data").exists():
        (chain / "data").symlink_to(root / "data", target_is_directory=True)


def score(folder: Path, step: int, videos: Path) -> float:
    """AP of a checkpoint of a run on the held-out videos, in 0..1."""
    metrics = folder / f"metrics_{step}.json"
    if not metrics.is_file():
        run(
            *("eval.py", "--weights", str(folder / "checkpoints" / f"step_{step:08d}")),
            *("--images", str(videos / "val" / "JPEGImages"), "--device", "cpu", "--threads", "1"),
            *("--annotations", str(videos / "annotations" / "instances_val.json")),
            *("--output", str(folder / f"results_{step}.json"), "--metrics", str(metrics)),
        )
    return json.loads(metrics.read_text(encoding="utf-8"))["AP"]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t."""
    width = statistics.stdev(values) / math.sqrt(len(values)) * _STUDENT[len(values) - 1]
    return statistics.fmean(values), width


def final_scores(rows: Sequence[dict[str, Any]], arm: str) -> list[float]:
    """AP after the last step, by seed."""
    return [row["AP"][-1] for row in by_seed(rows, arm)]


def page(record: dict[str, Any], figure: str) -> str:
    """The page of a record, as Markdown.

    Args:
        figure: file name of the figure beside it.
    """
    rows, settings = record["rows"], record["settings"]
    with_stills, alone = (final_scores(rows, arm) for arm in ARMS)
    gain = [a - b for a, b in zip(with_stills, alone, strict=True)]
    lines = []
    for title, values in (
        *zip(ARMS.values(), (with_stills, alone), strict=True),
        ("difference, seed by seed", gain),
    ):
        mean, width = interval(values)
        each = ", ".join(f"{100 * value:.1f}" for value in values)
        lines.append(f"| {title} | {each} | {100 * mean:.1f} ± {100 * width:.1f} |")
    mean, width = interval(gain)
    if mean - width > 0:
        verdict = "The stage before helps: the interval of the difference lies above zero."
    elif mean + width < 0:
        verdict = "The stage before harms: the interval of the difference lies below zero."
    else:
        verdict = "No difference is shown: its interval holds zero."
    before, after = settings["stills_steps"], settings["video_steps"]
    return f"""# Pictures before videos

Does the stage before help? A small model learns drawn shapes. `python -m bench.stages` trains it
for {before} steps on pictures and then for {after} on videos and pseudo-videos
(`seqformer chain --demo`). Beside it, it trains for the same {after} steps from random weights:
same seed, clips and settings. The scores are AP in percent on 40 held-out videos.

| training | AP by seed | mean and 95 % interval |
|---|---|---|
{chr(10).join(lines)}

{verdict} The interval is Student's, of {len(gain)} seeds.

![AP over the steps on videos, with and without the stage before]({figure})

Measured on {record["machine"]}. Both have the same budget on videos; the first has had {before}
steps more in all. The data is drawn, and a step on a picture costs less than half of one on videos.
"""


def draw(record: dict[str, Any], axes: Axes) -> None:
    """AP over the steps on videos."""
    for number, (arm, title) in enumerate(ARMS.items()):
        own = [row for row in record["rows"] if row["arm"] == arm]
        curves = [[100 * ap for ap in row["AP"]] for row in own]
        draw_seeds(axes, number, own[0]["steps"], curves, linewidth=2.2, marker="o", label=title)
    axes.set_xlabel("steps on videos")
    axes.set_ylabel("AP on held-out videos (%)")


def main(options: Options) -> int:
    """Train, score, record, render. Returns: the exit code."""
    if not options.render:
        rows = []
        for row in rows_of(options):
            rows.append(row)
            shown = ", ".join(f"{100 * ap:.1f}" for ap in row["AP"])
            print(f"seed {row['seed']}, {ARMS[row['arm']]}: AP {shown}", flush=True)
        settings = {k: v for k, v in asdict(options).items() if k.endswith("_steps")}
        write_record(options.out, rows, settings=settings)
    render(options, page, draw)
    return 0


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.stages", lambda: main(tyro.cli(Options)))
