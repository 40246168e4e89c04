"""Long and short videos, and degrees of occlusion as OVIS's official evaluator scores them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqformer.cli.main import main
from seqformer.evaluation import evaluate, score
from seqformer.evaluation.ap_of_parts import occlusion_score

GOLDEN = Path(__file__).parents[1] / "golden" / "ovis" / "random.json"


@pytest.fixture(scope="module")
def case():
    return json.loads(GOLDEN.read_text())


def test_groups_of_occlusion_are_those_of_the_official_evaluator(case):
    scores = score(case["truth"], case["results"])
    assert list(scores.parts) == ["APso", "APmo", "APho"]
    for name, part in scores.parts.items():
        assert part["AP"] == pytest.approx(case["expected"][name], rel=0, abs=1e-9)
        recall = case["expected"][name.replace("AP", "AR")]
        assert part["AR100"] == pytest.approx(recall, rel=0, abs=1e-9)


def test_only_the_worse_half_of_the_frames_counts():
    no, slight, severe = "no_occlusion", "slight_occlusion", "severe_occlusion"
    assert occlusion_score([no, no, severe, None]) == pytest.approx(0.375)
    assert occlusion_score([slight]) == 0.25
    assert occlusion_score([no, slight, slight, no]) == 0.25
    for silent in (None, [], [None], ["much"], 3):
        assert occlusion_score(silent) is None


def test_a_file_that_is_silent_has_no_groups(case):
    some = [{**entry} for entry in case["truth"]["annotations"]]
    del some[3]["occlusion"]
    scores = score({**case["truth"], "annotations": some}, case["results"])
    assert scores.parts == {} and "parts" not in scores.to_dict()


def of_videos(case, ids):
    truth = case["truth"]
    return (
        {
            **truth,
            "videos": [v for v in truth["videos"] if v["id"] in ids],
            "annotations": [a for a in truth["annotations"] if a["video_id"] in ids],
        },
        [r for r in case["results"] if r["video_id"] in ids],
    )


@pytest.mark.parametrize("how", ["length", "ids", "folders"])
def test_long_and_short_videos_are_scored_apart(case, how, tmp_path):
    lengths = {video["id"]: video["length"] for video in case["truth"]["videos"]}
    long = {video_id for video_id, length in lengths.items() if length >= 6}
    options = {"long_from": 6}
    if how != "length":
        names = sorted(long) if how == "ids" else [f"v{video_id}" for video_id in sorted(long)]
        text = json.dumps(names) if how == "ids" else "\n".join(map(str, names)) + "\n"
        (tmp_path / "long").write_text(text)
        options = {"long_list": tmp_path / "long"}
    parts = score(case["truth"], case["results"], **options).parts
    short = lengths.keys() - long
    for name, ids in (("short videos", short), ("long videos", long)):
        assert parts[name] == evaluate(*of_videos(case, ids)).stats
    both = parts["short videos"]["AP"], parts["long videos"]["AP"]
    assert parts["mean of both"]["AP"] == pytest.approx(sum(both) / 2)


def test_the_command_shows_and_writes_the_parts(case, tmp_path, capsys):
    files = {name: tmp_path / f"{name}.json" for name in ("truth", "results", "metrics")}
    for name in ("truth", "results"):
        files[name].write_text(json.dumps(case[name]))
    command = ["eval", "--results", str(files["results"]), "--annotations", str(files["truth"])]
    more = ["--long-from", "6", "--metrics", str(files["metrics"])]
    assert main([*command, *more]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("APho", "long videos", "mean of both", "HOTA"))
    metrics = json.loads(files["metrics"].read_text())
    assert metrics["parts"]["APso"]["AP"] == pytest.approx(case["expected"]["APso"])
    (tmp_path / "list").write_text("v1\nv99\n")
    assert main([*command, "--long-videos", str(tmp_path / "list")]) == 2
    assert "'v99'" in capsys.readouterr().err
    assert main([*command, "--long-videos", str(tmp_path / "list"), "--long-from", "3"]) == 2
    assert "not both" in capsys.readouterr().err
