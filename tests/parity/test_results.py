"""The published inference end to end: `eval.py` on JPEG frames must give the published results.

`tests/golden/inference_results_synthetic` holds two videos drawn by a program, the results file
that the published code writes for them with weights made by rule, and its scores and mask areas.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pycocotools import mask as coco_mask

from tests.parity.weights import checksum, rule_state_dict

ROOT = Path(__file__).resolve().parents[2]
CASE = ROOT / "tests" / "golden" / "inference_results_synthetic"
SCORE_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((CASE / "expected.json").read_text())


@pytest.fixture(scope="module")
def results(expected, tmp_path_factory) -> list[dict]:
    """What `eval.py` writes for the case, run as a user runs it."""
    folder = tmp_path_factory.mktemp("parity_results")
    state = rule_state_dict(expected["backbone"], expected["weight_seed"])
    assert checksum(state) == expected["weight_crc32"]
    torch.save({"model": state}, folder / "r50.pth")
    flags = {
        "--weights": folder / "r50.pth",
        "--backbone": expected["backbone_name"],
        "--images": CASE / "JPEGImages",
        "--annotations": CASE / "instances.json",
        "--output": folder / "results.json",
        "--device": "cpu",
        "--threads": 1,
    }
    command = [sys.executable, "eval.py", *(str(word) for pair in flags.items() for word in pair)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (folder / "r50.pth").unlink()
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def published() -> list[dict]:
    return json.loads((CASE / "results.json").read_text())


def test_entries_and_their_order(results, published):
    keys = ("video_id", "video_name", "category_id")
    assert [list(r) for r in results] == [list(p) for p in published]
    assert [[r[k] for k in keys] for r in results] == [[p[k] for k in keys] for p in published]


def test_scores(results, published):
    expected_scores = pytest.approx([p["score"] for p in published], abs=SCORE_TOLERANCE)
    assert [r["score"] for r in results] == expected_scores


def test_masks_of_every_frame(results, published):
    for ours, theirs in zip(results, published, strict=True):
        for a, b in zip(ours["segmentations"], theirs["segmentations"], strict=True):
            assert a["size"] == b["size"]
            union = int(coco_mask.area(coco_mask.merge([a, b])))
            common = int(coco_mask.area(coco_mask.merge([a, b], intersect=True)))
            assert union - common <= 3 or common / union > 0.99


def test_areas(results, expected):
    for ours, detection in zip(results, expected["detections"], strict=True):
        for segmentation, area in zip(ours["segmentations"], detection["areas"], strict=True):
            assert abs(int(coco_mask.area(segmentation)) - area) <= max(3, 0.01 * area)
