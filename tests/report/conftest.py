"""A small drawn data set, results that fail in known ways, and a browser to look at the page."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from seqformer.data.synthetic import make_synthetic_dataset
from tests.report.chromium import Chromium, find_chromium

NUM_VIDEOS, NUM_FRAMES, HEIGHT, WIDTH = 4, 6, 64, 96


@dataclass
class Problem:
    """Files of a data set and of results on it."""

    images: Path
    annotations: Path
    results: Path

    def truth(self) -> dict[str, Any]:
        return json.loads(self.annotations.read_text())


def shifted(segmentation: dict[str, Any] | None, pixels: int) -> dict[str, Any] | None:
    if segmentation is None:
        return None
    moved = np.roll(coco_mask.decode(segmentation), pixels, axis=1)
    rle = coco_mask.encode(np.asfortranarray(moved))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def make_results(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Every instance once: in turns right, of a wrong class, broken off, not at all."""
    results = []
    for i, entry in enumerate(truth["annotations"]):
        track = [shifted(s, 1) for s in entry["segmentations"]]
        category_id = entry["category_id"]
        match i % 4:
            case 1:
                category_id = category_id % 5 + 1
            case 2:
                first = next(t for t, s in enumerate(track) if s)
                track = [s if t == first else None for t, s in enumerate(track)]
            case 3:
                continue
        place = {"video_id": entry["video_id"], "category_id": category_id}
        score = round(0.95 - 0.02 * i, 2)
        results.append({**place, "score": score, "segmentations": track})
        results.append({**place, "score": 0.1, "segmentations": track})
    return results


@pytest.fixture(scope="session")
def _dataset(tmp_path_factory) -> Problem:
    root = tmp_path_factory.mktemp("drawn") / "set"
    paths = make_synthetic_dataset(
        root, num_train=1, num_val=NUM_VIDEOS, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH,
        seed=3,
    )  # fmt: skip
    results = root / "results.json"
    results.write_text(json.dumps(make_results(json.loads(paths.val_annotations.read_text()))))
    return Problem(paths.val_images, paths.val_annotations, results)


@pytest.fixture
def dataset(_dataset) -> Problem:
    """Read only."""
    return copy.copy(_dataset)


@pytest.fixture(scope="session")
def _browser(tmp_path_factory) -> Iterator[Chromium]:
    if find_chromium() is None:
        pytest.skip("no Chromium on the PATH (chromium, chromium-browser, google-chrome, chrome)")
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(_browser) -> Iterator[Chromium]:
    """One browser for all tests; whatever its console says is an error of the test."""
    yield _browser
    assert _browser.console == []
    foreign = [url for url in _browser.requests if not url.startswith(("data:", "file:", "about:"))]
    assert foreign == []
