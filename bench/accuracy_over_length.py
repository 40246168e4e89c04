"""AP against the length of a video, as one clip and in overlapping clips.

    python -m bench.accuracy_over_length --weights runs/demo/model.safetensors

A few long videos are drawn as the demo draws its own. They are cut at each length, and what is
annotated of the first frames is compared with what `seqformer eval` finds in them, in both modes.
The table says from which length on clips are better; `--out` writes it as JSON.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from bench.suite.record import machine
from seqformer.cli.eval import main as evaluate
from seqformer.data.synthetic import SyntheticPaths, make_synthetic_dataset
from seqformer.files import write_json

MODES = ("whole", "clips")
_PER_FRAME = ("segmentations", "bboxes", "areas")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score long drawn videos that are cut at several lengths."""

    weights: Path
    """Of the demo, or of another run on its classes."""
    lengths: tuple[int, ...] = (10, 50, 200, 1000)
    videos: int = 4
    frame_size: tuple[int, int] = (64, 96)
    """Height and width."""
    seed: int = 7
    threads: int = 1
    out: Path | None = None
    """JSON file to write."""

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1 or self.videos < 1:
            raise ValueError(
                f"lengths and videos must be at least 1, got {self.lengths} and {self.videos}"
            )


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
        ]
    )
    if code:
        raise RuntimeError(f"eval.py ended with {code} in mode {mode}")
    told = json.loads(metrics.read_text(encoding="utf-8"))
    return {name: told[name] for name in ("AP", "AP50")}


def main(options: Options) -> None:
    height, width = options.frame_size
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_synthetic_dataset(
            folder,
            num_train=1,
            num_val=options.videos,
            num_frames=max(options.lengths),
            height=height,
            width=width,
            seed=options.seed,
        )
        paths = SyntheticPaths.under(folder)
        whole = json.loads(paths.val_annotations.read_text(encoding="utf-8"))
        for length in options.lengths:
            file = folder / f"{length}" / "instances.json"
            file.parent.mkdir()
            write_json(file, cut(whole, length))
            for mode in MODES:
                scores = score(options, mode, paths.val_images, file)
                rows.append({"frames": length, "mode": mode, **scores})
    print("frames   " + "".join(f"{mode:>18}" for mode in MODES))
    for length in options.lengths:
        told = [r for r in rows if r["frames"] == length]
        cells = (f"{r['AP']:.4f} ({r['AP50']:.4f})" for r in told)
        print(f"{length:6}   " + "".join(f"{cell:>18}" for cell in cells))
    if options.out is not None:
        facts = machine(torch.device("cpu"))
        write_json(options.out, {"machine": facts, "videos": options.videos, "rows": rows})
        print(options.out)


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.accuracy_over_length", lambda: main(tyro.cli(Options)))
