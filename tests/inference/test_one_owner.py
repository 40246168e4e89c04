"""A results file has one evaluation at a time, and is complete or says what is missing."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from multiprocessing import get_context

import pytest
import torch

from seqformer.cli.eval import main
from seqformer.files import locked
from seqformer.inference import evaluate, runner
from seqformer.inference.predictor import Predictor
from seqformer.inference.results_file import PartialResults, lock_path
from tests.inference.test_many_videos import command, finished

FORK = get_context("fork")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    from PIL import Image

    from tests.inference.small_model import film

    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        (folder / f"v{number}").mkdir()
        for index, frame in enumerate(film(3, seed=number)):
            Image.fromarray(frame).save(folder / f"v{number}" / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from seqformer.model import save_safetensors
    from seqformer.structures import ClassMap
    from tests.inference.small_model import small_model

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_safetensors(path, small_model(), ClassMap((1, 2, 5), ("a", "b", "c")))
    return path


def hold(output, ready) -> None:
    with locked(lock_path(output), str(output)):
        ready.send(None)
        ready.recv()


def test_a_second_evaluation_is_refused_at_once(weights, videos, tmp_path, capsys):
    output = tmp_path / "results.json"
    here, there = FORK.Pipe()
    other = FORK.Process(target=hold, args=(output, there))
    other.start()
    here.recv()
    assert main(command(weights, videos, output)) == 2
    assert f"{output} is in use by another process" in capsys.readouterr().err
    assert not output.exists()
    with ExitStack() as stack:  # another file of the folder is free
        stack.callback(other.join)
        stack.callback(here.send, None)
        assert main(command(weights, videos, tmp_path / "other.json")) == 0
    assert main(command(weights, videos, output)) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.json", "results.json"]


def test_done_is_not_said_unless_all_are_there(weights, videos, tmp_path, monkeypatch, capsys):
    """Whatever removed results: an empty or partial file never looks like a complete one."""
    sound = evaluate.check_all_there

    def after_a_loss(sources, partial: PartialResults, failures):
        del partial.finished[3]
        sound(sources, partial, failures)

    monkeypatch.setattr(evaluate, "check_all_there", after_a_loss)
    output = tmp_path / "results.json"
    assert main(command(weights, videos, output)) == 2
    assert "1 of 4 videos are neither finished nor failed" in capsys.readouterr().err
    assert not output.exists()
    monkeypatch.undo()
    assert main(command(weights, videos, output)) == 0
    assert {e["video_id"] for e in json.loads(output.read_text())} == {1, 2, 3, 4}


FORMS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate"),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form).__name__)
def test_memory_that_runs_out_costs_one_video(form, weights, videos, tmp_path, monkeypatch, capsys):
    sound, output = Predictor.predict_resized, tmp_path / "results.json"
    calls = []

    def too_large(self, frames):
        calls.append(1)
        if len(calls) in (2, 5):  # the second video, and when it is tried again
            raise form
        return sound(self, frames)

    monkeypatch.setattr(Predictor, "predict_resized", too_large)
    assert main(command(weights, videos, output)) == 1
    text = capsys.readouterr().err
    assert "1 of 4 videos failed" in text and "give a smaller --chunk-frames" in text
    assert {e["video_id"] for e in json.loads(output.read_text())} == {1, 3, 4}
    assert finished(output) == 3


def test_faults_of_the_program_do_not_pass_for_broken_videos(
    weights, videos, tmp_path, monkeypatch, capsys
):
    def odd(self, frames):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Predictor, "predict_resized", odd)
    assert main(command(weights, videos, tmp_path / "results.json")) == 70
    error = capsys.readouterr().err
    assert "unexpected RuntimeError: shapes do not match" in error and "Traceback" not in error
    assert re.search(r"the traceback is in \S+\.txt", error)


def test_a_full_disk_ends_the_evaluation_and_blames_no_video(
    weights, videos, tmp_path, monkeypatch, capsys
):
    calls = []

    def full(file):
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seqformer.inference.results_file.to_disk", full)
    output = tmp_path / "results.json"
    assert main(command(weights, videos, output)) == 2
    error = capsys.readouterr().err
    assert "cannot write" in error and "results.json.partial.jsonl (No space left" in error
    assert "failed" not in error and len(calls) == 1
    monkeypatch.undo()
    assert main(command(weights, videos, output)) == 0


@pytest.mark.parametrize("rate", ["inf", "nan", "1e300", "1e-300", "0", "-3"])
def test_impossible_frame_rates_are_refused_before_anything_is_drawn(rate, tmp_path, capsys):
    words = ["--results", "r.json", "--images", str(tmp_path), "--annotations", "a.json"]
    assert main([*words, "--visualize", str(tmp_path / "out"), "--visualize-fps", rate]) == 2
    assert "--visualize-fps, the rate of frames per second" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_failures_know_their_video():
    failure = runner.Failure(7, "video 7 (x): is broken")
    assert (failure.video_id, str(failure)) == (7, "video 7 (x): is broken")
