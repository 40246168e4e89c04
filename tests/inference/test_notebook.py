"""What a notebook does with a prediction: draw it, hand it to other tools."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from seqformer.config import EvalConfig
from seqformer.inference import Predictor
from seqformer.structures import ClassMap
from tests.inference.small_model import film, small_model


@pytest.fixture(scope="module")
def prediction():
    classes = ClassMap((3, 4, 9), ("cat", "dog", "owl"))
    config = EvalConfig(short_side=32, top_k=4, chunk_frames=2)
    return Predictor(small_model(), classes, config, "cpu").predict(film(3))


def test_drawing_needs_only_the_frames(prediction):
    drawn = prediction.draw(film(3), min_score=0.0)
    assert len(drawn) == 3 and drawn[0].shape[0] >= 240
    assert prediction.names == {3: "cat", 4: "dog", 9: "owl"}
    empty = prediction.draw(film(3), min_score=1.0)
    assert not np.array_equal(drawn[1], empty[1])


def test_supervision_detections(prediction):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    detections = prediction.to_supervision(1)
    assert isinstance(detections, supervision.Detections)
    expected = [d for d in prediction.detections if d.mask(1).any()]
    assert len(detections) == len(expected) > 0
    assert np.array_equal(detections.mask, np.stack([d.mask(1) for d in expected]))
    assert detections.tracker_id.tolist() == [d.query for d in expected]
    assert detections.confidence.tolist() == pytest.approx([d.score for d in expected])
    assert set(detections.data["class_name"]) <= {"cat", "dog", "owl"}
    for box, mask in zip(detections.xyxy, detections.mask, strict=True):
        ys, xs = np.nonzero(mask)
        assert box.tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]
    assert len(prediction.to_supervision(1, min_score=1.0)) == 0
    with pytest.raises(IndexError, match=r"not in 0\.\.2"):
        prediction.to_supervision(3)


def test_without_supervision_one_sentence_says_so(prediction, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        prediction.to_supervision(0)
