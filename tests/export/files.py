"""Exported files of the small model, made once per test run, and what they are compared with."""

from __future__ import annotations

import fcntl
import os
from functools import cache
from pathlib import Path
from tempfile import gettempdir, mkdtemp

import torch

from seqformer.config import EvalConfig
from seqformer.export.graph import ClipGraph
from seqformer.export.sampling import in_plain_operators
from seqformer.inference.predictor import Predictor
from seqformer.structures import ClassMap
from tests.inference.small_model import small_model

CLASSES = ClassMap((1, 2, 5), ("cat", "dog", "cow"))
CONFIG = EvalConfig(short_side=40, top_k=4)
SIZES = [(1, 64, 96), (5, 61, 83), (2, 130, 75)]
"""T, H, W; none is that of the example that was traced."""


def predictor(config: EvalConfig = CONFIG) -> Predictor:
    return Predictor(small_model(), CLASSES, config, "cpu")


@cache
def exported(graph_format: str) -> Path:
    """Tracing takes seconds, so all tests share the file, those of other processes too."""
    ending = "pt2" if graph_format in ("pt2", "aoti") else "onnx"
    path = _folder() / f"small-{graph_format}.{ending}"
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            predictor().export(path, graph_format)
    return path


@cache
def _folder() -> Path:
    """One for all processes of a test run."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return Path(mkdtemp(prefix="seqformer-export-"))
    folder = Path(gettempdir()) / f"seqformer-export-{run}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def graph() -> ClipGraph:
    return ClipGraph(small_model(), in_plain_operators, CONFIG.top_k).eval()


def clip(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, 3, height, width, generator=generator)


def same_predictions(ours, expected, most_pixels: int = 3) -> None:
    """The golden tolerances: same entries, scores to 1e-4, masks to a few pixels."""
    from pycocotools import mask as coco_mask

    assert [(d.query, d.category_id) for d in ours.detections] == [
        (d.query, d.category_id) for d in expected.detections
    ]
    assert ours.detections
    for got, wanted in zip(ours.detections, expected.detections, strict=True):
        assert abs(got.score - wanted.score) < 1e-4
        for a, b in zip(got.segmentations, wanted.segmentations, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                pixels = (coco_mask.decode(a) != coco_mask.decode(b)).sum()
                assert pixels <= most_pixels
