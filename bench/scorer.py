"""Cost of scoring a results file of the size of the YouTube-VIS validation set, process by process.

    python -m bench.scorer                                  # ours alone
    python -m bench.scorer --public COCOAPI/PythonAPI       # and the official evaluator beside it

All run as whole processes, Python's start included, on one thread and in turns: our library called
from two lines, our command, and the public one. The numbers are processor seconds and peak resident
memory of the process, as medians. The official evaluator is
a checkout of github.com/youtubevos/cocoapi; if its C extension is not built there, the one of the
installed pycocotools, which comes from the same C source, serves instead. The case is seeded:
302 videos, 8,107 frames of 720 x 1280, 40 classes, ten predictions per video, nine in ten frames
of each with a mask.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from pycocotools import mask as coco_mask

from seqformer.evaluation.rle import read_runs

HEIGHT, WIDTH = 720, 1280
NUM_VIDEOS, NUM_FRAMES, NUM_CLASSES = 302, 8107, 40
RESULTS_PER_VIDEO = 10
MASK_SHARE = 0.9
MAX_LENGTH = 36
REPOSITORY = Path(__file__).resolve().parent.parent

_OURS = """
import sys
from seqformer.evaluation import evaluate, format_table
print(format_table(evaluate(sys.argv[1], sys.argv[2])))
"""

# The three patched names are gone from NumPy 2 and are all that keeps the public code from running.
_PUBLIC = """
import sys
import numpy, pycocotools
pycocotools.__path__.insert(0, sys.argv[3] + "/pycocotools")
numpy.float = float
linspace = numpy.linspace
numpy.linspace = lambda start, stop, num=50, **options: linspace(start, stop, int(num), **options)
from pycocotools.ytvos import YTVOS
from pycocotools.ytvoseval import YTVOSeval
truth = YTVOS(sys.argv[1])
scorer = YTVOSeval(truth, truth.loadRes(sys.argv[2]), "segm")
scorer.evaluate()
scorer.accumulate()
scorer.summarize()
"""

# A process of its own starts the measured one, so that its peak memory is not mixed with others'.
_MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True)
use = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, use.ru_utime + use.ru_stime, use.ru_maxrss, done.stdout]))
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time our scorer, and the public one beside it, on a case of validation size."""

    public: Path | None = None
    """Folder PythonAPI of a checkout of the official evaluator."""
    repeats: int = 5
    """Runs of each; the median counts."""
    truth_form: Literal["runs", "text"] = "runs"
    """Ground truth as uncompressed run lengths, like the published files, or compressed."""
    case: Path | None = None
    """Folder to keep the two files of the case in; a temporary one if not given."""
    out: Path | None = None
    """Write the measurements as JSON here."""


class Blob:
    """A smooth outline that drifts, breathes and changes shape over the frames of a video."""

    def __init__(self, rng: np.random.Generator, num_frames: int) -> None:
        time = np.linspace(0, 1, num_frames)
        self.center = np.stack(
            [
                _drift(rng, time, WIDTH * rng.uniform(0.15, 0.85), 120),
                _drift(rng, time, HEIGHT * rng.uniform(0.2, 0.8), 60),
            ],
            axis=1,
        )  # [T, 2]
        size = np.exp(rng.normal(np.log(115), 0.55))
        self.radius = size * np.exp(_drift(rng, time, 0, 0.15))
        self.aspect = rng.uniform(0.5, 1.8)
        waves = np.arange(2, 12)
        self.amplitude = rng.normal(0, 0.35, waves.size) / waves
        self.phase = np.stack([_drift(rng, time, rng.uniform(0, 6), 0.8) for _ in waves], axis=1)

    def masks(
        self, shift: np.ndarray, scale: float, roughness: float, rng: np.random.Generator
    ) -> list[dict[str, Any]]:
        """One RLE per frame of the outline moved by `shift`, resized and roughened."""
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        waves = np.arange(2, 12)[:, None]
        masks = []
        for center, radius, phase in zip(self.center, self.radius, self.phase, strict=True):
            outline = 1 + self.amplitude @ np.cos(waves * angle + phase[:, None])
            outline = np.maximum(outline + rng.normal(0, roughness, angle.size), 0.1)
            reach = radius * scale * outline
            x = center[0] + shift[0] + reach * np.cos(angle) * np.sqrt(self.aspect)
            y = center[1] + shift[1] + reach * np.sin(angle) / np.sqrt(self.aspect)
            polygon = np.stack([x.clip(0, WIDTH), y.clip(0, HEIGHT)], axis=1).ravel()
            masks.append(coco_mask.frPyObjects([polygon.tolist()], HEIGHT, WIDTH)[0])
        return masks


def _drift(rng: np.random.Generator, time: np.ndarray, start: float, reach: float) -> np.ndarray:
    """A smooth random path around `start`."""
    return start + reach * (
        rng.normal() * time + rng.normal() * np.sin(2 * np.pi * (time + rng.uniform()))
    )


def build_case(folder: Path, truth_form: str, seed: int = 0) -> tuple[Path, Path, dict[str, int]]:
    """Write annotations.json and results.json. Returns their paths and what is in them."""
    rng = np.random.default_rng(seed)
    videos, annotations, results = [], [], []
    for number, length in enumerate(_video_lengths(rng), start=1):
        videos.append({"id": number, "height": HEIGHT, "width": WIDTH, "length": int(length)})
        instances = []
        category = int(rng.integers(1, NUM_CLASSES + 1))
        for _ in range(rng.choice(4, p=[0.55, 0.27, 0.12, 0.06]) + 1):
            if rng.random() < 0.4:
                category = int(rng.integers(1, NUM_CLASSES + 1))
            blob = Blob(rng, length)
            instances.append((blob, category))
            masks = blob.masks(np.zeros(2), 1, 0.01, rng)
            absent = _absences(rng, length)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": number,
                    "category_id": category,
                    "iscrowd": 0,
                    "segmentations": [
                        None if gone else _truth_mask(mask, truth_form)
                        for mask, gone in zip(masks, absent, strict=True)
                    ],
                    "areas": [
                        None if gone else int(coco_mask.area(mask))
                        for mask, gone in zip(masks, absent, strict=True)
                    ],
                }
            )
        for rank in range(RESULTS_PER_VIDEO):
            # The first result of every instance is good, later ones are duplicates, other classes
            # of the same query, or something else entirely, as in the top ten of a real model.
            blob, category = instances[rank % len(instances)]
            if rank >= len(instances) and rng.random() < 0.25:
                blob = Blob(rng, length)
            if rank >= len(instances) and rng.random() < 0.5:
                category = int(rng.integers(1, NUM_CLASSES + 1))
            error = rng.exponential(0.02 if rank < len(instances) else 0.12)
            masks = blob.masks(
                rng.normal(0, 150 * error, 2), np.exp(rng.normal(0, error)), 0.03, rng
            )
            results.append(
                {
                    "video_id": number,
                    "category_id": category,
                    "score": float(np.exp(-3 * error) * rng.uniform(0.5, 1)),
                    "segmentations": [
                        None if gone else _text(mask)
                        for mask, gone in zip(masks, _absences(rng, length), strict=True)
                    ],
                }
            )
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, NUM_CLASSES + 1)]
    truth = {"videos": videos, "categories": categories, "annotations": annotations}
    paths = folder / "annotations.json", folder / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    counts = {
        "videos": len(videos),
        "frames": sum(video["length"] for video in videos),
        "instances": len(annotations),
        "results": len(results),
        "result_masks": sum(mask is not None for r in results for mask in r["segmentations"]),
        "annotation_bytes": paths[0].stat().st_size,
        "result_bytes": paths[1].stat().st_size,
    }
    return *paths, counts


def _video_lengths(rng: np.random.Generator) -> np.ndarray:
    lengths = rng.integers(17, MAX_LENGTH + 1, NUM_VIDEOS)
    while (surplus := int(lengths.sum()) - NUM_FRAMES) != 0:
        chosen = rng.integers(NUM_VIDEOS)
        lengths[chosen] = np.clip(lengths[chosen] - np.sign(surplus), 4, MAX_LENGTH)
    return lengths


def _absences(rng: np.random.Generator, length: int) -> np.ndarray:
    """[T] bool: some instances enter late or leave early."""
    absent = np.zeros(length, bool)
    num_absent = rng.binomial(length, min(1.0, rng.exponential(1 - MASK_SHARE)))
    absent[:num_absent] = True
    return absent[::-1] if rng.random() < 0.5 else absent


def _text(mask: dict[str, Any]) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": mask["counts"].decode("ascii")}


def _truth_mask(mask: dict[str, Any], truth_form: str) -> dict[str, Any]:
    text = _text(mask)
    if truth_form == "text":
        return text
    pairs = read_runs([text["counts"]], [HEIGHT * WIDTH])
    runs = np.stack([pairs.zeros, pairs.ones], axis=1).ravel().tolist()
    return {"size": text["size"], "counts": runs if runs[-1] else runs[:-1]}


def run_once(command: list[str]) -> tuple[float, float, str]:
    """Processor seconds, peak memory in MiB and output of a process on one thread."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *command],
        cwd=REPOSITORY,
        env={**os.environ, **dict.fromkeys(threads, "1"), "MPLBACKEND": "agg"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    code, seconds, peak_kib, output = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{' '.join(command[:3])} ... ended with code {code}")
    return seconds, peak_kib / 1024, output


def printed_ap(output: str) -> float:
    """AP in percent as a scorer printed it, to see that all did the same work."""
    ours = re.search(r"all classes\s+\d+\s+([\d.]+)", output)
    if ours:
        return float(ours[1])
    return 100 * float(re.search(r"IoU=0\.50:0\.95.*area=\s*all.*= (-?[\d.]+)", output)[1])


def measure(annotations: Path, results: Path, options: Options) -> dict[str, dict[str, Any]]:
    """Run every scorer in turns, and sum up each: medians over the turns."""
    truth_file, result_file = str(annotations.resolve()), str(results.resolve())
    commands = {
        "library": ["-c", _OURS, truth_file, result_file],
        "eval.py": ["eval.py", "--results", result_file, "--annotations", truth_file],
    }
    if options.public:
        folder = str(options.public.resolve())
        commands["public"] = ["-c", _PUBLIC, truth_file, result_file, folder]
    turns = [
        {name: run_once([sys.executable, *command]) for name, command in commands.items()}
        for _ in range(options.repeats)
    ]
    rows = {}
    for name in commands:
        rows[name] = {
            "cpu_seconds": statistics.median(turn[name][0] for turn in turns),
            "peak_mib": statistics.median(turn[name][1] for turn in turns),
            "ap_percent": printed_ap(turns[0][name][2]),
            "all_cpu_seconds": [turn[name][0] for turn in turns],
        }
        if options.public:
            for key, index in (("cpu_of_public", 0), ("memory_of_public", 1)):
                ratios = (turn[name][index] / turn["public"][index] for turn in turns)
                rows[name][key] = statistics.median(ratios)
    return rows


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.case or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        annotations, results, counts = build_case(folder, options.truth_form)
        print(", ".join(f"{value:,} {name}" for name, value in counts.items()))
        rows = measure(annotations, results, options)
    print(f"{'':8}{'CPU s':>9}{'peak MiB':>10}{'AP %':>8}{'CPU / public':>14}{'memory':>8}")
    for name, row in rows.items():
        line = f"{name:8}{row['cpu_seconds']:9.2f}{row['peak_mib']:10.0f}{row['ap_percent']:8.2f}"
        if options.public:
            line += f"{row['cpu_of_public']:14.3f}{row['memory_of_public']:8.3f}"
        print(line)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"case": counts, "truth_form": options.truth_form, "repeats": options.repeats}
        options.out.write_text(json.dumps({**record, **rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options))
