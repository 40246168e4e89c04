"""The flat form of annotations: what it holds, where it is kept, and who may share it."""

from __future__ import annotations

import json
import logging
import os
import pickle
import tempfile
from multiprocessing import get_context

import numpy as np
import pytest

from seqformer.annotations import cache, ytvis
from seqformer.annotations.packed import open_packed, save_packed
from seqformer.annotations.ytvis import load_annotation_file


@pytest.fixture(autouse=True)
def _small_files_too(monkeypatch):
    monkeypatch.setattr(cache, "SMALLEST_CACHED", 0)


def assert_same_annotations(a, b) -> None:
    assert a.categories == b.categories
    assert len(a.videos) == len(b.videos)
    for left, right in zip(a.videos, b.videos, strict=True):
        assert (left.id, left.height, left.width) == (right.id, right.height, right.width)
        assert left.file_names == right.file_names
        for s, t in zip(left.instances, right.instances, strict=True):
            assert (s.annotation_id, s.category_id, s.is_crowd) == (
                t.annotation_id,
                t.category_id,
                t.is_crowd,
            )
            np.testing.assert_array_equal(s.boxes_xyxy, t.boxes_xyxy)
            assert s.segmentations == t.segmentations


def never(path):
    raise AssertionError(f"{path} was parsed although it is cached")


def test_the_second_time_nothing_is_parsed(small, tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "cache"
    parsed = load_annotation_file(small.annotations)
    first = load_annotation_file(small.annotations, cache=folder)
    monkeypatch.setattr(ytvis, "_parse", never)
    second = load_annotation_file(small.annotations, cache=folder)
    for one in (first, second, pickle.loads(pickle.dumps(second))):
        assert_same_annotations(parsed, one)


def test_a_changed_file_is_parsed_again_and_replaces_the_old_form(small, tmp_path):
    load_annotation_file(small.annotations, cache=tmp_path / "cache")
    small.content["annotations"][0]["category_id"] = 3
    small.save()
    os.utime(small.annotations, ns=(1, 1))
    again = load_annotation_file(small.annotations, cache=tmp_path / "cache")
    assert again.videos[0].instances[0].category_id == 3
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1


def test_a_mistake_leaves_no_cache_behind(small, tmp_path):
    small.content["annotations"][0]["category_id"] = "x"
    for _ in range(2):
        with pytest.raises(ValueError, match="category_id is 'x'"):
            load_annotation_file(small.save(), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_a_folder_that_cannot_be_used_is_said_and_does_not_stop_the_run(small, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        loaded = load_annotation_file(small.annotations, cache=tmp_path / "file" / "cache")
    assert_same_annotations(loaded, load_annotation_file(small.annotations))
    (message,) = caplog.messages
    assert "--data.annotation-cache" in message and str(tmp_path / "file") in message


def test_a_full_disk_leaves_no_half_of_a_file(small, tmp_path, monkeypatch, caplog):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):  # not in the temporary folder either
        load_annotation_file(small.annotations, cache=tmp_path / "cache")
    assert "not cached" in caplog.text
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_without_a_folder_nothing_is_left_behind(small, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    loaded = load_annotation_file(small.annotations)
    assert not list((tmp_path / "tmp").iterdir())
    monkeypatch.setattr(cache, "SMALLEST_CACHED", 10**9)
    for one in (loaded, pickle.loads(pickle.dumps(loaded))):
        assert_same_annotations(one, load_annotation_file(small.annotations))


def test_a_reader_that_is_killed_is_said(small, monkeypatch, one_line):
    monkeypatch.setattr(ytvis, "_parse", lambda *arguments: os.kill(os.getpid(), 9))
    with pytest.raises(ValueError, match=r"exit code -9.*lack of memory") as error:
        load_annotation_file(small.annotations)
    one_line(error.value)


def _load(path, folder, connection):
    original = ytvis._parse

    def counting(*arguments):
        with (folder.parent / "parsed").open("a") as file:
            file.write("x")
        return original(*arguments)

    ytvis._parse = counting
    loaded = load_annotation_file(path, cache=folder)
    connection.send((len(loaded.videos), loaded.num_instances))


@pytest.mark.distributed
def test_processes_that_start_together_parse_once(small, tmp_path):
    context = get_context("fork")
    started = []
    for _ in range(3):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_load, args=(small.annotations, tmp_path / "cache", sender)
        )
        process.start()
        started.append((process, receiver))
    results = [receiver.recv() for _, receiver in started]
    for process, _ in started:
        process.join()
    assert results == [(2, 5)] * 3
    assert (tmp_path / "parsed").read_text() == "x"


def test_a_cut_off_cache_file_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SMALLEST_CACHED", 10**9)
    path = tmp_path / "a.safetensors"
    save_packed(load_annotation_file(small.annotations).packed, path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"a\.safetensors is not a complete"):
        open_packed(path)


def test_without_annotations_the_arrays_are_empty(small, tmp_path):
    del small.content["annotations"]
    loaded = load_annotation_file(small.save(), cache=tmp_path / "cache")
    assert [v.instances for v in loaded.videos] == [(), ()]
    assert json.loads(small.annotations.read_text())["videos"][0]["id"] == loaded.videos[0].id
