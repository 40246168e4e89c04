"""Joining files, and giving them other categories."""

from __future__ import annotations

import copy
import json
from functools import partial

import pytest

from seqformer.annotations.ytvis import load_annotation_file
from seqformer.cli.main import run_command

merge = partial(run_command, "data merge")
remap = partial(run_command, "data remap")


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def other(dataset):
    """The same videos under other ids, with two classes of their own and other ids for the rest."""
    content = copy.deepcopy(dataset.content)
    content["categories"] = [
        {"id": 1, "name": "blob"},
        {"id": 2, "name": "star"},
        {"id": 3, "name": "disc"},
        {"id": 40, "name": "bar"},
    ]
    for entry in content["annotations"]:
        entry["category_id"] = [1, 2, 3, 40][entry["id"] % 4]
    return content


def test_merged_by_name(dataset, other, tmp_path):
    paths = [str(dataset.annotations), write(tmp_path / "other.json", other)]
    out = tmp_path / "new" / "both.json"
    assert merge(["--inputs", *paths, "--prefixes", "", "more/", "--output", str(out)]) == 0
    both = json.loads(out.read_text())
    names = {c["id"]: c["name"] for c in both["categories"]}
    assert [*names.values()] == ["disc", "triangle", "star", "cross", "ring", "blob", "bar"]
    assert list(names) == [1, 2, 3, 4, 5, 6, 40]  # 1 was taken, 40 was free
    number = len(dataset.content["videos"])
    assert [v["id"] for v in both["videos"]] == list(range(1, 2 * number + 1))
    assert [a["id"] for a in both["annotations"]] == list(range(1, len(both["annotations"]) + 1))
    old = [(dataset.content, 0, ""), (other, number, "more/")]
    expected = []
    for content, shift, prefix in old:
        own = {c["id"]: c["name"] for c in content["categories"]}
        files = {v["id"]: v["file_names"] for v in content["videos"]}
        expected += [
            (own[a["category_id"]], a["segmentations"], a["video_id"] + shift,
             [prefix + name for name in files[a["video_id"]]])
            for a in content["annotations"]
        ]  # fmt: skip
    files = {v["id"]: v["file_names"] for v in both["videos"]}
    got = [
        (names[a["category_id"]], a["segmentations"], a["video_id"], files[a["video_id"]])
        for a in both["annotations"]
    ]
    assert got == expected
    load_annotation_file(out)


def test_merge_refuses(dataset, other, tmp_path, fails):
    second = write(tmp_path / "other.json", other)
    out = ("--output", tmp_path / "both.json")
    assert "two files" in fails(merge, "--inputs", dataset.annotations, *out)
    message = fails(merge, "--inputs", dataset.annotations, second, *out)
    assert "both have the frame video_0000/00000.jpg" in message and "--prefixes" in message
    message = fails(merge, "--inputs", dataset.annotations, second, "--prefixes", "a", *out)
    assert "one folder per file" in message
    assert not (tmp_path / "both.json").exists()
    folder = ("--output", tmp_path)
    message = fails(merge, "--inputs", dataset.annotations, second, "--prefixes", "a", "b", *folder)
    assert "is a folder" in message


def test_renamed_joined_and_dropped(dataset, tmp_path):
    names = write(tmp_path / "n.json", {"disc": "round", "ring": "round", "star": None})
    out = tmp_path / "out.json"
    command = ["--annotations", str(dataset.annotations), "--output", str(out), "--names", names]
    assert remap(command) == 0
    changed = json.loads(out.read_text())
    kept = [(1, "round"), (2, "triangle"), (4, "cross")]
    assert [(c["id"], c["name"]) for c in changed["categories"]] == kept
    expected = [
        {**a, "category_id": 1 if a["category_id"] == 5 else a["category_id"]}
        for a in dataset.content["annotations"]
        if a["category_id"] != 3
    ]
    assert changed["annotations"] == expected and len(expected) < len(
        dataset.content["annotations"]
    )
    assert changed["videos"] == dataset.content["videos"]
    assert remap([*command, "--drop-others", "--drop-empty-videos"]) == 0
    changed = json.loads(out.read_text())
    assert [c["name"] for c in changed["categories"]] == ["round"]
    assert {a["category_id"] for a in changed["annotations"]} == {1}
    assert {v["id"] for v in changed["videos"]} == {a["video_id"] for a in changed["annotations"]}


def test_numbered_like_another_file(dataset, other, tmp_path):
    like = write(tmp_path / "other.json", other)
    out = tmp_path / "out.json"
    names = write(tmp_path / "n.json", {"ring": "blob", "cross": "bar"})
    command = ["--annotations", str(dataset.annotations), "--output", str(out), "--like", like]
    assert remap([*command, "--names", names, "--drop-others"]) == 0
    changed = json.loads(out.read_text())
    assert changed["categories"] == other["categories"]
    ids = {5: 1, 4: 40}
    assert [a["category_id"] for a in changed["annotations"]] == [
        ids[a["category_id"]] for a in dataset.content["annotations"] if a["category_id"] in ids
    ]
    assert remap([*command, "--drop-others"]) == 0
    ids = {1: 3, 3: 2}  # disc and star by their names
    assert [a["category_id"] for a in json.loads(out.read_text())["annotations"]] == [
        ids[a["category_id"]] for a in dataset.content["annotations"] if a["category_id"] in ids
    ]


def test_remap_refuses(dataset, other, tmp_path, fails):
    common = ("--annotations", dataset.annotations, "--output", tmp_path / "o.json")
    assert "--names, --like or both" in fails(remap, *common)
    unknown = write(tmp_path / "u.json", {"dics": "round"})
    assert "no category 'dics'; there are 'cross', 'disc'" in fails(
        remap, *common, "--names", unknown
    )
    for text, message in (("[1]", "must hold one object"), ("{", "not complete JSON")):
        (tmp_path / "bad.json").write_text(text)
        assert message in fails(remap, *common, "--names", tmp_path / "bad.json")
    assert "does not exist" in fails(remap, *common, "--names", tmp_path / "nowhere")
    like = write(tmp_path / "other.json", other)
    assert "the target has no category 'cross'" in fails(remap, *common, "--like", like)
    assert not (tmp_path / "o.json").exists()
