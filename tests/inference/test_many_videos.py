"""`eval.py` on many videos: killed and continued, on one process or three, always the same file.

The processes are forked from one that has loaded torch, so that ten killed runs take seconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqformer.cli.eval import main
from seqformer.data.video_sources import find_videos
from seqformer.inference import runner
from seqformer.inference.frame_loader import FrameLoader
from seqformer.inference.predictor import Predictor
from seqformer.inference.results_file import partial_paths
from seqformer.model import save_safetensors
from seqformer.structures import ClassMap
from seqformer.visualization.video_writer import write_video
from tests.inference.small_model import film, small_model

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["seqformer.inference.evaluate", "seqformer.inference.runner"])


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_safetensors(path, small_model(), ClassMap((1, 2, 5), ("a", "b", "c")))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Twenty videos of 1 to 12 frames and two sizes."""
    folder = tmp_path_factory.mktemp("videos")
    rng = random.Random(0)
    for number in range(20):
        place = folder / f"v{number:02}"
        place.mkdir()
        frames = film(rng.randint(1, 12), *rng.choice([(40, 56), (48, 36)]), seed=number)
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(place / f"{index}.png")
    return folder


def command(weights: Path, videos: Path, output: Path, *more: str) -> list[str]:
    words = ["--weights", str(weights), "--images", str(videos), "--output", str(output)]
    words += ["--device", "cpu", "--threads", "1", "--short-side", "32", "--top-k", "4"]
    return [*words, "--chunk-frames", "3", *more]


def work(arguments: list[str], rank: int, world_size: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    raise SystemExit(main(arguments))


def start(arguments: list[str], world_size: int = 1) -> list:
    """The processes of a run, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        CONTEXT.Process(target=work, args=(arguments, rank, world_size, port))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


def join(processes) -> list[int]:
    for process in processes:
        process.join(400)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def uninterrupted(weights, videos, tmp_path_factory) -> bytes:
    output = tmp_path_factory.mktemp("out") / "results.json"
    assert main(command(weights, videos, output)) == 0
    entries = json.loads(output.read_bytes())
    assert len({e["video_id"] for e in entries}) == 20
    return output.read_bytes()


def finished(output: Path) -> int:
    """Videos in the partial files; one that is being taken over has no name for a moment."""
    count = 0
    for path in partial_paths(output):
        with suppress(FileNotFoundError):
            count += max(path.read_bytes().count(b"\n") - 1, 0)
    return count


@pytest.mark.distributed
def test_killed_ten_times_then_finished(weights, videos, uninterrupted, tmp_path):
    output, rng = tmp_path / "results.json", random.Random(7)
    for kill in range(10):
        before = finished(output)
        # Mostly in the middle of a video, some while the model loads: always in what is left.
        expected = before + (kill % 3 != 2) if before < 16 else before
        processes = start(command(weights, videos, output), world_size=3 if kill % 5 == 4 else 1)
        deadline = time.monotonic() + 60
        while finished(output) < expected and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
        assert join(processes) == [-signal.SIGKILL] * len(processes)
        assert not output.exists(), "the run was over before it was killed"
    assert finished(output) > 0, "every run was killed before it did anything"
    assert main(command(weights, videos, output)) == 0
    assert output.read_bytes() == uninterrupted
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.distributed
def test_three_processes_write_the_same_bytes(weights, videos, uninterrupted, tmp_path):
    output = tmp_path / "results.json"
    arguments = command(weights, videos, output, "--visualize", str(tmp_path / "drawn"))
    assert join(start(arguments, world_size=3)) == [0, 0, 0]
    assert output.read_bytes() == uninterrupted
    assert len(list((tmp_path / "drawn").iterdir())) == 20
    assert not partial_paths(output)


@pytest.mark.distributed
def test_helper_processes_write_the_same_bytes(weights, videos, uninterrupted, tmp_path, caplog):
    output = tmp_path / "results.json"
    helpers = ("--decode-workers", "2", "--encode-workers", "1")
    with caplog.at_level("INFO"):
        assert main(command(weights, videos, output, *helpers)) == 0
    assert output.read_bytes() == uninterrupted
    assert "idle share of the network at most" in caplog.text


def test_choices_of_an_interrupted_run_are_kept(weights, videos, tmp_path, monkeypatch, caplog):
    """A run without --chunk-frames goes on with the number it was started with."""
    output = tmp_path / "results.json"
    arguments = command(weights, videos, output)
    position = arguments.index("--chunk-frames")
    del arguments[position : position + 2]
    calls = []
    original = Predictor.predict_resized

    def stops(self, frames):
        calls.append(self.config.chunk_frames)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, frames)

    monkeypatch.setattr(Predictor, "predict_resized", stops)
    monkeypatch.setattr(Predictor, "default_chunk_frames", lambda self: 2)
    assert main(arguments) == 130
    monkeypatch.setattr(Predictor, "default_chunk_frames", lambda self: 1)  # less memory now
    assert main(arguments) == 0
    assert calls == [2] * 3 + [2] * 18
    assert "ignored" not in caplog.text


def test_a_video_that_fails_once_is_tried_again(weights, videos, uninterrupted, tmp_path, caplog):
    original, failed = runner._predict, []

    def flaky(predictor, source, frames, partial):
        if source.name == "v03" and not failed:
            failed.append(next(iter(frames)))
            return runner._Problem("the disk was away for a moment")
        return original(predictor, source, frames, partial)

    output = tmp_path / "results.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_predict", flaky)
        assert main(command(weights, videos, output)) == 0
    assert output.read_bytes() == uninterrupted
    assert "away for a moment (it is tried once more at the end)" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_goes_on_after_a_broken_or_abandoned_video(workers, tmp_path):
    for number, length in enumerate((20, 40, 3, 1)):
        place = tmp_path / f"{number}"
        place.mkdir()
        for index in range(length):
            picture = np.full((16, 24, 3), 10 * number + index, np.uint8)
            Image.fromarray(picture).save(place / f"{index}.png")
    (tmp_path / "1" / "18.png").write_bytes(b"no picture")
    write_video(tmp_path / "4.mp4", [np.full((16, 24, 3), 99, np.uint8)] * 9)
    sources = find_videos(tmp_path)
    loader = FrameLoader(sources, (8, 0), workers)
    try:
        assert len(next(loader.frames(0))[0]) == 8  # and no more of this video
        with pytest.raises(ValueError, match=r"18\.png is not an image"):
            list(loader.frames(1))
        values = [int(frame[0, 0, 0]) for frame, _ in loader.frames(2)]
        assert values == [20, 21, 22]
        assert [size for _, size in loader.frames(3)] == [(16, 24)]
        assert len(list(loader.frames(4))) == 9
        assert loader.waited > 0
    finally:
        loader.close()


def test_a_dead_worker_is_reported(videos):
    sources = find_videos(videos)
    loader = FrameLoader(sources, (8, 0), workers=1)
    try:
        process, _ = loader._workers[0]
        process.kill()
        process.join()
        with pytest.raises(OSError, match=r"has died \(exit code -9\).*--decode-workers"):
            for index in range(len(sources)):
                list(loader.frames(index))
    finally:
        loader.close()
