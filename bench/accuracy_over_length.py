"""AP against the length of a video, as one clip and in overlapping clips.

    python -m bench.accuracy_over_length --weights runs/demo/model.safetensors

A few long videos are drawn as the demo draws its own, but slower. They are cut at each length, and
what is annotated of the first frames is compared with what `seqformer eval` finds in them, in both
modes.
The record is `bench/results/accuracy_over_length.json`; from it `docs/accuracy_over_length.md` and
its figure are written, which say from which length on clips are better.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from matplotlib.axes import Axes

from bench.report.drawing import colour
from bench.report.study import FOLDERS, StudyOptions, render, write_record
from seqformer.cli.eval import main as evaluate
from seqformer.data.synthetic import SyntheticPaths, make_synthetic_dataset
from seqformer.data.synthetic_drawing import SyntheticConfig
from seqformer.files import write_json

RECORD, PAGE = FOLDERS[0] / "accuracy_over_length.json", FOLDERS[1] / "accuracy_over_length.md"
MODES = {"whole": "one clip (`--mode whole`)", "clips": "overlapping clips (`--mode clips`)"}
CHUNK = 8
"""Frames that go through together; small ones are slower one by one."""
LOST = 5.0
"""AP in percent below which nothing is followed."""
_PER_FRAME = ("segmentations", "bboxes", "areas")


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    """Score long drawn videos that are cut at several lengths."""

    weights: Path | None = None
    """Of the demo, or of another run on its classes."""
    lengths: tuple[int, ...] = (10, 50, 200, 1000)
    videos: int = 4
    frame_size: tuple[int, int] = (64, 96)
    """Height and width."""
    slower: float = 5.0
    """How much less objects and ground move from frame to frame than in the demo's videos: as in a
    video of 25 frames a second, of which the demo shows every fifth."""
    seed: int = 7
    threads: int = 1
    out: Path = RECORD
    page: Path = PAGE

    def __post_init__(self) -> None:
        if (self.weights is None) != self.render:
            raise ValueError("give --weights FILE, or --render to write the page of the record")
        if not self.lengths or min(self.lengths) < 1 or self.videos < 1:
            raise ValueError(
                f"lengths and videos must be at least 1, got {self.lengths} and {self.videos}"
            )
        if self.slower <= 0:
            raise ValueError(f"slower must be above 0, got {self.slower}")


def cut(annotations: dict[str, Any], length: int) -> dict[str, Any]:
    """The first frames of every video; objects that are in none of them are left out."""
    videos = [
        video | {"file_names": video["file_names"][:length], "length": length}
        for video in annotations["videos"]
    ]
    objects = [
        one | {name: one[name][:length] for name in _PER_FRAME if name in one} | {"length": length}
        for one in annotations["annotations"]
    ]
    seen = [one for one in objects if any(one["segmentations"])]
    return annotations | {"videos": videos, "annotations": seen}


def score(options: Options, mode: str, images: Path, annotations: Path) -> dict[str, float]:
    """AP and AP50 of one mode. Raises: RuntimeError when the evaluation fails."""
    results, metrics = (annotations.with_name(f"{mode}-{n}.json") for n in ("results", "metrics"))
    code = evaluate(
        [
            *("--weights", str(options.weights), "--images", str(images), "--device", "cpu"),
            *("--annotations", str(annotations), "--mode", mode, "--output", str(results)),
            *("--metrics", str(metrics), "--threads", str(options.threads), "--fresh"),
            *("--chunk-frames", str(CHUNK), "--ap-only"),
        ]
    )
    if code:
        raise RuntimeError(f"eval.py ended with {code} in mode {mode}")
    told = json.loads(metrics.read_text(encoding="utf-8"))
    return {name: told[name] for name in ("AP", "AP50")}


def rows_of(options: Options, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each length and mode: AP and AP50, in 0..1."""
    height, width = options.frame_size
    make_synthetic_dataset(
        folder,
        num_train=1,
        num_val=options.videos,
        num_frames=max(options.lengths),
        height=height,
        width=width,
        seed=options.seed,
        config=SyntheticConfig(
            speed=SyntheticConfig.speed / options.slower,
            rotation_speed=SyntheticConfig.rotation_speed / options.slower,
            camera_speed=SyntheticConfig.camera_speed / options.slower,
        ),
    )
    paths = SyntheticPaths.under(folder)
    whole = json.loads(paths.val_annotations.read_text(encoding="utf-8"))
    for length in options.lengths:
        file = folder / f"{length}" / "instances.json"
        file.parent.mkdir()
        write_json(file, cut(whole, length))
        for mode in MODES:
            yield {"frames": length, "mode": mode, **score(options, mode, paths.val_images, file)}


def curve(record: dict[str, Any], mode: str) -> list[tuple[int, float]]:
    """(frames, AP in percent) of a mode, by length."""
    own = [row for row in record["rows"] if row["mode"] == mode]
    return sorted((row["frames"], 100 * row["AP"]) for row in own)


def verdict(record: dict[str, Any]) -> str:
    """One sentence: when to switch."""
    pairs = zip(*(curve(record, mode) for mode in MODES), strict=True)
    better = [(n, clips > whole) for (n, whole), (_, clips) in pairs if max(whole, clips) > 0]
    if not any(is_better for _, is_better in better):
        return "One clip is at least as good at every length."
    first = next(
        (length for i, (length, _) in enumerate(better) if all(b for _, b in better[i:])), None
    )
    if first is None:
        return "Clips are better at some lengths and not at all longer ones."
    if first == better[0][0]:
        return "Clips are better at every length that was measured."
    before = max(length for length, _ in better if length < first)
    return f"Switch to clips somewhere between {before:,} and {first:,} frames."


def lost_from(record: dict[str, Any]) -> int | None:
    """The shortest length from which on both modes stay below `LOST`; None where one does not."""
    pairs = zip(*(curve(record, mode) for mode in MODES), strict=True)
    lost = [(length, max(whole, clips) < LOST) for (length, whole), (_, clips) in pairs]
    return next(
        (length for i, (length, _) in enumerate(lost) if all(is_lost for _, is_lost in lost[i:])),
        None,
    )


def page(record: dict[str, Any], figure: str) -> str:
    """The page of a record, as Markdown.

    Args:
        figure: file name of the figure beside it.
    """
    curves = {mode: dict(curve(record, mode)) for mode in MODES}
    lines = [
        f"| {length:,} | " + " | ".join(f"{curves[mode][length]:.1f}" for mode in MODES) + " |"
        for length in sorted(curves["whole"])
    ]
    height, width = record["frame_size"]
    lost = lost_from(record)
    limit = f" From {lost:,} frames on neither keeps to an object here." if lost else ""
    return f"""# Accuracy over the length of a video

{record["videos"]} drawn videos of {width}x{height} pixels are cut at each length. The weights are
those of a run of `seqformer train demo`, which has seen two frames at once. Things move
{record["slower"]:g} times slower than in its videos. The scores are AP in percent.

| frames | {" | ".join(MODES.values())} |
|---|---|---|
{chr(10).join(lines)}

{verdict(record)}{limit}

One clip has one query for an object: in a long video the object has been everywhere, and its query
with it. Clips are joined by their masks on the frames they share.

![AP over the length of a video, as one clip and in overlapping clips]({figure})

Measured by `python -m bench.accuracy_over_length --weights FILE` on {record["machine"]}.
With {record["videos"]} videos a few points either way say nothing: where things moved at the demo's
own speed, clips were ahead at some length. Drawn objects cross and turn more than most real ones:
score a few of your own videos in both modes.
"""


def draw(record: dict[str, Any], axes: Axes) -> None:
    """AP over the length, a line for each mode."""
    for number, (mode, title) in enumerate(MODES.items()):
        lengths, aps = zip(*curve(record, mode), strict=True)
        label = title.partition(" (")[0]
        axes.plot(lengths, aps, color=colour(number), linewidth=2.2, marker="o", label=label)
    axes.set_xscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.set_xlabel("frames of the video")
    axes.set_ylabel("AP (%)")


def main(options: Options) -> None:
    if not options.render:
        rows = []
        with tempfile.TemporaryDirectory() as name:
            for row in rows_of(options, Path(name)):
                rows.append(row)
                print(f"{row['frames']:6} frames, {row['mode']}: AP {row['AP']:.4f}", flush=True)
        settings = {
            "videos": options.videos,
            "frame_size": list(options.frame_size),
            "slower": options.slower,
        }
        write_record(options.out, rows, **settings)
    render(options, page, draw)


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.accuracy_over_length", lambda: main(tyro.cli(Options)))
