"""analyse, compare and report from the outside."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from seqformer.cli.main import run_command

analyse = partial(run_command, "analyse")
compare = partial(run_command, "compare")
report = partial(run_command, "report")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(dataset):
    """Perfect results, and the same without those of the first three videos."""
    perfect = [
        {
            "video_id": a["video_id"],
            "category_id": a["category_id"],
            "score": 0.9 - i / 100,
            "segmentations": a["segmentations"],
        }
        for i, a in enumerate(dataset.content["annotations"])
    ]
    paths = dataset.root / "perfect.json", dataset.root / "half.json"
    paths[0].write_text(json.dumps(perfect))
    paths[1].write_text(json.dumps([r for r in perfect if r["video_id"] > 3]))
    return paths


def test_analyse(dataset, results, capsys):
    out = dataset.root / "new" / "analysis.json"
    common = ["--annotations", str(dataset.annotations), "--results", str(results[1])]
    assert analyse([*common, "--resamples", "50", "--output", str(out), "--length-edges", "2"]) == 0
    text = capsys.readouterr().out
    numbers = json.loads(out.read_text())
    expected = sum(a["video_id"] <= 3 for a in dataset.content["annotations"])
    assert numbers["errors"]["counts"]["missed"] == expected > 0
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert lines["missed"].split()[1:] == [
        str(expected), f"{100 * numbers['errors']['costs']['missed']:.2f}"
    ]  # fmt: skip
    assert f"{100 * numbers['stats']['AP']['value']:.2f}" in lines["AP"]
    assert [row["name"] for row in numbers["by_length"]] == ["1 to 2 frames", "3 to 4 frames"]
    for name in ("disc", "official", "share", "length"):
        assert name in lines


def test_compare(dataset, results, capsys):
    command = ["--annotations", str(dataset.annotations), "--resamples", "50", "--output"]
    out = dataset.root / "comparison.json"
    pair = ["--first", str(results[1]), "--second", str(results[0])]
    assert compare([*command, str(out), *pair, "--videos", "2"]) == 0
    text = capsys.readouterr().out
    numbers = json.loads(out.read_text())
    row = numbers["stats"]["AP"]
    assert row["second"] == pytest.approx(1) and row["difference"]["low"] > 0
    better = [v for v, (one, other) in numbers["per_video"].items() if other > one]
    assert sorted(better) == ["1", "2", "3"]
    assert "3 videos are better, the most:" in text and text.count("\nvideo ") == 2


def test_report_with_options(dataset, results, capsys):
    out = dataset.root / "report"
    common = ["--annotations", str(dataset.annotations), "--results", str(results[1])]
    options = ["--resamples", "20", "--title", "Half a model", "--max-videos", "2"]
    images = ["--images", str(dataset.images)]
    assert report([*common, *images, "--output", str(out), *options]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    text = (out / "index.html").read_text()
    assert "<h1>Half a model</h1>" in text
    assert text.count('<script type="application/json" id="video-') == 2


def test_bad_input(dataset, results, tmp_path, fails):
    common = ("--annotations", dataset.annotations)
    nowhere = tmp_path / "nowhere.json"
    assert "nowhere.json does not exist" in fails(analyse, *common, "--results", nowhere)
    cut = tmp_path / "cut.json"
    cut.write_text(results[0].read_text()[:700])
    assert "cut.json is not complete JSON" in fails(analyse, *common, "--results", cut)
    message = fails(analyse, *common, "--results", results[0], "--iou-threshold", 0.51)
    assert "0.50, 0.55" in message
    pair = ("--first", results[0], "--second", cut)
    assert "cut.json is not complete JSON" in fails(compare, *common, *pair)
    pair = ("--first", results[0], "--second", results[1])
    assert "--videos" in fails(compare, *common, *pair, "--videos", -1)
    out = ("--results", results[0], "--output")
    assert "is a file; give a folder" in fails(report, *common, *out, results[0])
    images = ("--images", tmp_path / "images")
    assert "image folder" in fails(report, *common, *out, tmp_path / "r", *images)
