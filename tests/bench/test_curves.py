"""The original code beside ours: what both are given, and what is made of their losses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bench import curves
from bench.baselines import original
from seqformer.criterion import SetCriterion
from seqformer.data.loader import build_train_loader
from seqformer.data.synthetic import make_synthetic_dataset
from seqformer.structures import ClassMap, ClipTargets
from seqformer.trainer.run_log import read_training_lines
from tests.trainer.tiny import tiny_model_config

ROWS = [
    {"arm": arm, "seed": seed, "losses": [first + seed] * 20 + [last + seed] * 20, "AP": 0.1}
    for arm, first, last in (("ours", 10.0, 4.0), ("original", 10.0, 8.0), ("nudged", 10.0, 6.0))
    for seed in (0, 1, 2)
]


def test_a_point_is_a_window_and_the_band_is_that_of_the_seeds():
    ours, theirs = (curves.curves_of(ROWS, arm) for arm in ("ours", "original"))
    assert ours == [[10.0, 4.0], [11.0, 5.0], [12.0, 6.0]]
    assert curves.within(ours, theirs) == (1, 2)  # the mean 5 is below 8 to 10
    assert curves.distance([[10.0, 4.0]], [[11.0, 3.0]]) == pytest.approx((0.1 + 0.25) / 2)


def test_the_page_says_what_the_record_holds(tmp_path):
    record = tmp_path / "record.json"
    settings = {"steps": 40, "seeds": [0, 1, 2]}
    record.write_text(json.dumps({"settings": settings, "machine": "a CPU", "rows": ROWS}))
    page = tmp_path / "page.md"
    curves.main(curves.Options(out=record, page=page, render=True))
    text = page.read_text()
    assert "for 40 steps" in text and "| this code | 10.0, 10.0, 10.0 | 4.00, 5.00, 6.00 |" in text
    assert "largest of the original's seeds at 1,\nand its mean between ours at 1." in text
    assert page.with_suffix(".svg").read_text().startswith("<?xml")


def test_committed_page_is_that_of_the_committed_record(tmp_path):
    page = tmp_path / "curves.md"
    curves.main(curves.Options(page=page, render=True))
    assert page.read_text() == curves.PAGE.read_text()


def test_without_the_original_code_a_sentence_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.delenv(original.VARIABLE, raising=False)
    with pytest.raises(ValueError, match="SEQFORMER_PUBLIC must name a folder"):
        curves.main(curves.Options(folder=tmp_path, out=tmp_path / "record.json"))


def test_both_read_the_same_clips_and_start_from_the_same_weights(tmp_path):
    """Our model on the first batch of the original's loop has the loss that the trainer logs."""
    sizes = {"num_frames": 4, "height": 64, "width": 96}
    data = make_synthetic_dataset(tmp_path / "data", num_train=4, num_val=1, seed=0, **sizes)
    config = curves.config_of(data, seed=1, steps=2, output=tmp_path / "ours")
    config = replace(config, model=replace(tiny_model_config(), num_levels=4))
    classes: ClassMap = build_train_loader(config.data, 1)[1]
    start = curves.start_of(config, classes)
    losses = curves.train_ours(config, start, classes)
    assert losses == [line["loss"] for line in read_training_lines(config.output / "log.jsonl")]
    images, padding_mask, targets = next(curves.batches_of(config))
    T = images.shape[1]
    whole: list[ClipTargets] = [
        {
            "labels": target["labels"],
            "boxes": target["boxes"].unflatten(0, (-1, T)),
            "masks": target["masks"].unflatten(0, (-1, T)),
            "size": tuple(target["size"].tolist()),
        }
        for target in targets
    ]
    with torch.no_grad():
        output = start.train()(images, padding_mask)
        count = sum(len(target["labels"]) for target in targets)
        criterion = SetCriterion(config.loss)
        first = criterion.weighted_sum(criterion(output, whole, max(count, 1)))
    assert losses[0] == pytest.approx(float(first), rel=1e-6)
