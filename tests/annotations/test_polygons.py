"""Polygons: COCO's masks where they are usual, clipped or refused where they cost too much."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from seqformer.annotations import polygons as module
from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.polygons import rasterise_polygons

H, W = 20, 30


def decoded(text: str) -> np.ndarray:
    return coco_mask.decode({"size": [H, W], "counts": text}).astype(bool)


def official(polygons) -> np.ndarray:
    rle = coco_mask.merge(coco_mask.frPyObjects(polygons, H, W))
    return coco_mask.decode(rle).astype(bool)


points = st.lists(st.floats(-60, 90).map(lambda v: round(v, 1)), min_size=6, max_size=16)


def distance(polygon: list[float]) -> np.ndarray:
    """[H, W] from the centre of every pixel to the nearest edge."""
    corners = np.array(polygon).reshape(-1, 2)
    ends = np.roll(corners, -1, axis=0)
    rows, columns = np.mgrid[:H, :W]
    centres = np.stack([columns, rows], axis=-1)[:, :, None] + 0.5
    along = ends - corners
    share = ((centres - corners) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    nearest = corners + np.clip(share, 0, 1)[..., None] * along
    return np.sqrt(((centres - nearest) ** 2).sum(-1)).min(-1)


@settings(deadline=None, max_examples=150)
@given(points.filter(lambda polygon: len(polygon) % 2 == 0))
def test_clipping_changes_pixels_at_the_edges_alone(polygon):
    near = module._clip(polygon, H, W)
    clipped = decoded(rasterise_polygons([near], H, W)) if near else np.zeros((H, W), bool)
    assert (clipped == official([polygon]))[distance(polygon) > 1.5].all()


def test_usual_polygons_go_to_the_library_as_they_are(monkeypatch):
    monkeypatch.setattr(module, "_clip", None)
    polygon = [[-5.5, -3, 14.2, 2.5, 12, 33, 4, 9]]
    np.testing.assert_array_equal(decoded(rasterise_polygons(polygon, H, W)), official(polygon))


def test_a_polygon_around_the_frame_fills_it():
    far = [-1e6, -1e6, 1e6, -1e6, 1e6, 1e6, -1e6, 1e6]
    assert decoded(rasterise_polygons([far], H, W)).all()
    assert not decoded(rasterise_polygons([[9e5, 9e5, 9e5, 1e6, 1e6, 1e6]], H, W)).any()


def test_edges_that_run_to_and_fro_inside_are_refused():
    zigzag = [v for i in range(80_000) for v in ((0, 0) if i % 2 else (W, H))]
    with pytest.raises(InvalidMaskError, match=r"edges are .* pixels long in all"):
        rasterise_polygons([zigzag], H, W)


def test_far_polygons_cost_no_memory():
    """Sixty points a million pixels away took 4.6 GB."""
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 * 2**29,) * 2)\n"
        "from seqformer.annotations.polygons import rasterise_polygons\n"
        "far = [v for i in range(80) for v in ((1e6, 1e6) if i % 2 else (-1e6, i - 1e6))]\n"
        "rasterise_polygons([far], 32, 64)\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e7, "1", None, True, [1]])
def test_what_is_no_position_is_refused(value):
    with pytest.raises(InvalidMaskError):
        rasterise_polygons([[0, 0, 4, 0, 4, value]], H, W)
