"""Figures: deterministic, complete, and without what changes from run to run."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from bench.report import plots
from bench.report.history import load
from bench.report.page import draw
from bench.suite import record
from tests.bench.report.fabricated_records import CPU, MIB, case, fabricate, write


def long_video(frames: int) -> dict:
    course = [[t, 900 + 50 * np.sin(t)] for t in range(frames)]
    side = record.side_row([1.0 * frames], "wall", 960 * MIB, resident_by_frame_mib=course)
    return record.case_row(
        case(f"long video of {frames}", "long video", "growth", shapes={"T": frames}, along="T"),
        {"ours": side},
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    videos = record.new_record("long video", CPU | {"commit": "a"}, [long_video(50)])
    made = (fabricate(CPU, day, day, part="cpu") for day in (1, 2))
    return load(write(tmp_path_factory.mktemp("results"), *made, videos))


@pytest.fixture(scope="module")
def drawn(records, tmp_path_factory):
    return draw(records, tmp_path_factory.mktemp("plots"))


def test_the_same_records_give_the_same_bytes_whatever_the_users_settings(records, drawn, tmp_path):
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False}):
        again = draw(records, tmp_path)
    assert [p.name for p in drawn] == [p.name for p in again]
    for a, b in zip(drawn, again, strict=True):
        assert a.read_bytes() == b.read_bytes()
        assert "date" not in a.read_text().lower()
        assert a.stat().st_size < 100_000


def test_figures_for_groups_throughput_growth_and_the_long_video(drawn):
    texts = {path.name: path.read_text() for path in drawn}
    subjects = ("kernels", "blocks", "model", "data", "throughput", "long-video")
    subjects += ("growth-training-step",)
    assert set(texts) == {f"fabricated-cpu-{subject}.svg" for subject in subjects}
    assert "mask head" in texts["fabricated-cpu-kernels.svg"]
    for text in ("training step R50 192x320 T=5", "0000001", "2026-11-02"):
        assert text in texts["fabricated-cpu-throughput.svg"]
    assert "long video of 50" in texts["fabricated-cpu-long-video.svg"]


def test_a_long_course_is_thinned_without_losing_its_peak():
    course = [[t, 100.0] for t in range(5000)]
    course[3333][1] = 700.0
    thinned = plots.thinned(course)
    assert len(thinned) <= plots.MOST_POINTS
    assert max(value for _, value in thinned) == 700.0
    assert plots.thinned(course[:100]) == [(t, 100.0) for t in range(100)]


def test_a_group_of_many_cases_is_drawn_in_parts(tmp_path):
    chosen = [
        (case(f"{op} {n}", op, shapes={"N": n}), 1e-3 * n, 10, 2.0)
        for op in ("msda encoder", "mask head")
        for n in range(1, 31)
    ]
    results = write(tmp_path / "results", fabricate(CPU, 1, 1, part="cpu", chosen=chosen))
    drawn = {path.name: path.read_text() for path in draw(load(results), tmp_path)}
    assert set(drawn) == {"fabricated-cpu-kernels-msda.svg", "fabricated-cpu-kernels-mask.svg"}
    assert "mask head 30" in drawn["fabricated-cpu-kernels-mask.svg"]
    assert "mask" not in drawn["fabricated-cpu-kernels-msda.svg"].replace("mask=", "")
