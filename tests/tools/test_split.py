"""Splitting by video, stratified by class."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.annotations.ytvis import load_annotation_file
from seqformer.cli.main import run_command
from seqformer.tools.split import assign

main = partial(run_command, "data split")


def split(data, *parts, seed=0):
    paths = [(data.root / f"part{i}.json", share) for i, share in enumerate(parts)]
    arguments = [str(value) for pair in paths for value in pair]
    common = ["--annotations", str(data.annotations), "--seed", str(seed)]
    assert main([*common, "--parts", *arguments]) == 0
    return [json.loads(path.read_text()) for path, _ in paths]


def test_parts_are_disjoint_complete_and_usable(dataset, caplog):
    caplog.set_level("INFO")
    parts = split(dataset, 0.5, 0.3, 0.2)
    for key in ("videos", "annotations"):
        entries = [entry for part in parts for entry in part[key]]
        assert sorted(entries, key=lambda e: e["id"]) == dataset.content[key]
    for i, part in enumerate(parts):
        own = {video["id"] for video in part["videos"]}
        assert own and {a["video_id"] for a in part["annotations"]} <= own
        assert part["categories"] == dataset.content["categories"]
        assert part["info"] == dataset.content["info"]
        load_annotation_file(dataset.root / f"part{i}.json")
    assert "videos" in caplog.text


def test_the_seed_decides(dataset):
    assert split(dataset, 0.5, 0.5, seed=1) == split(dataset, 0.5, 0.5, seed=1)
    chosen = {json.dumps(split(dataset, 0.5, 0.5, seed=seed)[0]) for seed in range(8)}
    assert len(chosen) > 1


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 60),
    st.integers(0, 6),
    st.sampled_from([(0.5, 0.5), (0.9, 0.1), (0.7, 0.2, 0.1)]),
    st.integers(0, 2**32 - 1),
)
def test_every_video_goes_somewhere_and_no_part_is_empty(num_videos, num_classes, shares, seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.7, (num_videos, num_classes)).astype(float)
    if num_videos < len(shares):
        return
    part_of = assign(counts, np.array(shares), rng)
    assert set(part_of) == set(range(len(shares)))
    again = np.random.default_rng(seed)
    again.poisson(0.7, (num_videos, num_classes))
    assert (assign(counts, np.array(shares), again) == part_of).all()


def test_classes_are_shared_out_evenly():
    """A long tail of classes: a tenth drawn by chance is far from a tenth of each."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, 31)
    counts = rng.poisson(3 * frequency, (400, 30)).astype(float)
    totals = counts.sum(axis=0)
    part_of = assign(counts, np.array([0.9, 0.1]), rng)
    held_out = counts[part_of == 1].sum(axis=0)
    assert abs(np.count_nonzero(part_of == 1) - 40) <= 4
    random = counts[rng.permutation(400)[:40]].sum(axis=0)
    wrong, wrong_by_chance = (np.abs(n - 0.1 * totals) / (0.1 * totals) for n in (held_out, random))
    assert wrong.mean() < 0.25 * wrong_by_chance.mean() and wrong.max() < 0.2


def test_a_class_of_two_videos_is_in_both_halves():
    counts = np.zeros((20, 2))
    counts[:, 0] = 1
    counts[[3, 11], 1] = 1
    for seed in range(5):
        part_of = assign(counts, np.array([0.5, 0.5]), np.random.default_rng(seed))
        assert part_of[3] != part_of[11]
        assert Counter(part_of.tolist()) == {0: 10, 1: 10}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["a.json", "1"], "two parts or more"),
        (["a.json", "0.5", "b.json", "0.6"], "add up to 1"),
        (["a.json", "1.5", "b.json", "-0.5"], "positive"),
        (["a.json", "0.5", "a.json", "0.5"], "file of its own"),
        (["SELF", "0.5", "a.json", "0.5"], "file of its own"),
        ([v for i in range(10) for v in (f"{i}.json", "0.1")], "6 videos cannot be split into 10"),
    ],
)
def test_requests_without_sense(parts, message, dataset, monkeypatch, fails):
    monkeypatch.chdir(dataset.root)
    parts = [str(dataset.annotations) if part == "SELF" else part for part in parts]
    assert message in fails(main, "--annotations", dataset.annotations, "--parts", *parts)
    assert not (dataset.root / "a.json").exists()


def test_unsound_files_are_sent_to_the_check(dataset, fails):
    parts = ("--parts", dataset.root / "a.json", 0.5, dataset.root / "b.json", 0.5)
    dataset.content["annotations"][2]["video_id"] = 77
    dataset.save()
    message = fails(main, "--annotations", dataset.annotations, *parts)
    assert "annotations entry 2 has video_id 77" in message and "check --fix" in message
    dataset.content["videos"][1]["id"] = 1
    dataset.save()
    message = fails(main, "--annotations", dataset.annotations, *parts)
    assert "videos entry 1 has no id of its own" in message
    assert "seed must be" in fails(main, "--annotations", dataset.annotations, *parts, "--seed", -1)
