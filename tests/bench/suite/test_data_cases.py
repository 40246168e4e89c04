"""Cases of loading and scoring: their files, their sides, what a mistake looks like."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from bench.scorer import run
from bench.suite import scratch
from bench.suite.cases import loader, scorer
from bench.suite.schema import check_agreement
from bench.suite.scorer_files import draw_files, draw_many
from seqformer.evaluation import evaluate

CPU = torch.device("cpu")
calls: list[Path] = []


def draw_one(folder: Path, number: int) -> None:
    calls.append(folder)
    if number < 0:
        raise ValueError("no such number")
    (folder / "file").write_text(str(number))


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    calls.clear()


def test_files_are_drawn_once_for_the_same_arguments():
    first, again, other = (scratch.drawn(draw_one, number) for number in (1, 1, 2))
    assert first == again != other and len(calls) == 2
    assert [(f / "file").read_text() for f in (first, other)] == ["1", "2"]


def test_nothing_is_left_of_files_that_could_not_be_drawn(tmp_path):
    with pytest.raises(ValueError, match="no such number"):
        scratch.drawn(draw_one, -1)
    assert not list(tmp_path.iterdir())


def test_a_few_videos_are_the_first_of_all(tmp_path):
    contents = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        draw_files(folder, "text", number)
        contents.append([json.loads((folder / f"{n}.json").read_text()) for n in FILES])
    (one, one_results), (two, two_results) = contents
    assert len(one["videos"]) == 1 and len(two["videos"]) == 2
    assert one_results == two_results[:10] and len(two_results) == 20
    assert one["annotations"] == two["annotations"][: len(one["annotations"])]


FILES = ("annotations", "results")


def test_both_ways_make_clips_of_the_same_items():
    made: list[list[int]] = [[], []]
    for items in made:
        call = loader._call(items.append, 20, 8, {})
        call()
        call()
    assert made[0] == made[1] and len(made[0]) == 16 and made[0][:8] != made[0][8:]


def test_a_scorer_that_reads_other_results_is_noticed():
    case = scorer.scorer_case("text", 2)
    outputs = {side.name: side.build(CPU)() for side in case.sides_on(CPU)}
    assert {"ours", "eval.py"} <= set(outputs) and outputs["ours"].shape == (12,)
    check_agreement(case, outputs)
    outputs["eval.py"] = scorer._ours("text", 3, CPU)()
    with pytest.raises(AssertionError, match=r"differs from"):
        check_agreement(case, outputs)


def test_the_official_evaluator_is_there_only_with_its_folder(tmp_path, monkeypatch):
    case = next(scorer.cases("cpu"))
    monkeypatch.delenv(scorer.VARIABLE, raising=False)
    assert [side.name for side in case.sides_on(CPU)] == ["ours", "eval.py"]
    monkeypatch.setenv(scorer.VARIABLE, str(tmp_path))
    assert [side.name for side in case.sides_on(CPU)] == ["ours", "eval.py", "published"]
    with pytest.raises(FileNotFoundError, match="SEQFORMER_COCOAPI must name the folder"):
        scorer.official_modules(tmp_path)


def test_a_command_is_measured_without_what_started_it():
    usage = run([sys.executable, "-c", "held = b'x' * 60 * 2**20"])
    assert 60 < usage.peak_bytes / 2**20 < 120 and usage.cpu_seconds > 0  # torch is larger
    with pytest.raises(RuntimeError, match="oops"):
        run([sys.executable, "-c", "raise SystemExit('oops')"])


def test_files_of_very_many_results_can_be_scored(tmp_path):
    draw_many(tmp_path, 600)
    metrics = evaluate(tmp_path / "annotations.json", tmp_path / "results.json")
    assert 0 <= metrics.stats["AP"] < 0.1 and len(metrics.per_class) == 40
    assert len(json.loads((tmp_path / "results.json").read_text())) == 600
