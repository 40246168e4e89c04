"""Frames from an address: served on loopback, followed, interrupted, and reported."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from seqformer.cli.eval import main
from seqformer.config import EvalConfig
from seqformer.data.live_address import is_live, without_password
from seqformer.data.live_connection import words_of
from seqformer.data.live_source import LiveSource
from seqformer.inference import Predictor
from seqformer.inference.live import Latencies, follow
from seqformer.inference.live_film import MOST_WAITING, FilmProcess
from seqformer.model import save_safetensors
from seqformer.structures import ClassMap
from tests.inference.loopback import served, transport_stream
from tests.inference.small_model import film, small_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "model.safetensors"
    save_safetensors(path, small_model(), ClassMap((1, 2, 3), ("a", "b", "c")))
    return path


def test_which_texts_are_live():
    for text in ("camera:0", "rtsp://host/a", "HTTP://host:8/a?b=c", "udp://239.0.0.1:5"):
        assert is_live(text), text
    for text in ("camera", "camera:x", "film.mp4", "folder/http", "file:///etc/passwd", "http://"):
        assert not is_live(text), text


@pytest.mark.parametrize("scheme", ["tcp", "http", "rtsp"])
def test_all_frames_are_computed_and_the_film_written(tmp_path, weights, scheme):
    paths = {name: tmp_path / f"{name}.json" for name in ("results", "metrics")}
    drawn = ("--visualize", str(tmp_path / "drawn"), "--visualize-min-score", "0")
    with served(transport_stream(film(12)), loops=2, scheme=scheme) as address:
        code = main(
            [
                *("--weights", str(weights), "--images", address, "--live-policy", "all"),
                *("--output", str(paths["results"]), "--metrics", str(paths["metrics"])),
                *("--short-side", "32", "--live-keep", "5", "--device", "cpu", "--threads", "1"),
                *(drawn if scheme == "tcp" else ()),
            ]
        )
    assert code == 0
    metrics = json.loads(paths["metrics"].read_text())
    assert metrics["dropped"] == 0 and metrics["frames"] >= 20
    assert 0 < metrics["latency_ms_p50"] <= metrics["latency_ms_p99"]
    results = json.loads(paths["results"].read_text())
    assert results and all(len(entry["segmentations"]) == 5 for entry in results)
    if scheme == "tcp":
        with av.open(str(tmp_path / "drawn" / "live.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == metrics["frames"]


def test_newest_first_drops_what_nobody_took():
    with served(transport_stream(film(30))) as address, LiveSource(address) as source:
        source.begin()
        time.sleep(1.0)
        first = source.take(5)
        assert first is not None and source.take(0.2) is None
        assert first.dropped == source.dropped >= 20
        assert source.is_over


def test_the_film_of_dropped_frames_keeps_time(tmp_path):
    """A dropped frame shows the picture before it, so the film is as long as what was sent."""
    predictor = Predictor(
        small_model(), config=EvalConfig(short_side=32, chunk_frames=1), device="cpu"
    )
    path, interval = tmp_path / "live.mp4", sys.getswitchinterval()
    with served(transport_stream(film(60))) as address, LiveSource(address) as source:
        process = FilmProcess(path, 25, min_score=0.0)
        assert source.size == film(1).shape[1:3]
        source.begin()
        _, report = follow(predictor, source, keep=1, film=process)
        process.close()
    assert not process.problem and sys.getswitchinterval() == interval
    assert gc.get_freeze_count() == 0, "what was there is collected again"
    with av.open(str(path)) as container:
        shown = sum(1 for _ in container.decode(video=0))
    assert report.frames + report.dropped >= shown >= report.frames
    assert report.ended == "the source ended"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_ctrl_c_ends_it_and_writes_the_results(tmp_path, weights, number):
    output, metrics = tmp_path / "results.json", tmp_path / "metrics.json"
    with served(transport_stream(film(25)), loops=100_000) as address:
        command = [
            *(sys.executable, "eval.py", "--weights", str(weights), "--images", address),
            *("--output", str(output), "--metrics", str(metrics), "--short-side", "32"),
            *("--device", "cpu", "--threads", "1"),
        ]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE)
        assert process.stderr is not None
        for line in process.stderr:
            if b"is open" in line:
                break
        time.sleep(2)
        process.send_signal(number)
        assert process.wait(30) == 0
        process.stderr.close()
    told = json.loads(metrics.read_text())
    assert told["ended"] == "interrupted" and told["frames"] > 0
    assert isinstance(json.loads(output.read_text()), list)


def test_a_source_that_ends_is_opened_again(tmp_path, weights):
    metrics = tmp_path / "metrics.json"
    with served(transport_stream(film(12)), scheme="http") as address:
        code = main(
            [
                *("--weights", str(weights), "--images", address, "--live-policy", "all"),
                *("--output", str(tmp_path / "r.json"), "--metrics", str(metrics)),
                *("--live-reconnect", "10", "--live-frames", "20", "--short-side", "32"),
                *("--device", "cpu", "--threads", "1"),
            ]
        )
    told = json.loads(metrics.read_text())
    assert code == 0 and told["frames"] == 20 and told["reconnected"] >= 1
    assert told["ended"] == "after 20 frames"


def test_a_source_that_changes_its_frames_is_an_error_and_nothing_is_lost(
    tmp_path, weights, caplog
):
    output, metrics = tmp_path / "r.json", tmp_path / "metrics.json"
    content = transport_stream(film(12)) + transport_stream(film(12, 56, 40))
    with served(content) as address:
        code = main(
            [
                *("--weights", str(weights), "--images", address, "--live-policy", "all"),
                *("--output", str(output), "--metrics", str(metrics), "--short-side", "32"),
                *("--device", "cpu", "--threads", "1"),
            ]
        )
    assert code == 1 and json.loads(output.read_text())
    assert (
        "all frames of a video must have the same size" in json.loads(metrics.read_text())["ended"]
    )
    assert any("must have the same size" in r.message for r in caplog.records)


def test_a_film_that_cannot_be_written_holds_nobody_up(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    predictor = Predictor(small_model(), config=EvalConfig(short_side=32), device="cpu")
    pictures = film(2, 40, 56)
    tracks = predictor.predict(pictures[:1])
    process = FilmProcess(tmp_path / "file" / "live.mp4", 25, min_score=0.0)
    for _ in range(3 * MOST_WAITING):
        process.add(pictures[0], 0, tracks)
    process.close()
    assert "file" in process.problem and "everything else goes on" in caplog.text
    dead = FilmProcess(tmp_path / "live.mp4", 25, min_score=0.0)
    dead._process.kill()
    for _ in range(3 * MOST_WAITING):
        dead.add(pictures[0], 0, tracks)
    dead.close()
    assert "has died" in dead.problem and not (tmp_path / "live.mp4").exists()


@pytest.mark.parametrize(
    ("error", "address", "expected"),
    [
        (errno.ENODEV, "camera:0", "was it unplugged?"),
        (errno.EACCES, "camera:0", "join the group `video`"),
        (errno.EBUSY, "camera:0", "another program uses it"),
        (errno.ENOENT, "camera:9", "there is no such camera"),
        (errno.ECONNREFUSED, "rtsp://host/a", "is the sender running"),
        (errno.EIO, "rtsp://host/a", "the host is unknown or does not answer"),
        (errno.EMFILE, "rtsp://host/a", os.strerror(errno.EMFILE)),
    ],
)
def test_errors_of_the_system_are_explained(error, address, expected):
    assert expected in words_of(OSError(error, os.strerror(error)), address)


def test_errors_of_ffmpeg_are_explained():
    address = "rtsp://me:secret@host:554/a"
    told = [
        words_of(kind(0, "words"), address)
        for kind in (av.error.ExitError, av.error.HTTPUnauthorizedError, av.error.InvalidDataError)
    ]
    assert "nothing came for 15 seconds" in told[0]
    assert told[1].endswith("rtsp://NAME:PASSWORD@host:554/a") and "no video" in told[2]
    assert without_password(address) == "rtsp://me:***@host:554/a"
    for open_address in ("rtsp://host:554/a@b", "camera:0", "http://host/a?b=c:d"):
        assert without_password(open_address) == open_address


def test_what_nobody_serves_is_one_sentence(tmp_path, weights, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    code = main(["--weights", str(weights), "--images", address, "--output", str(tmp_path / "r")])
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and f"{address} cannot be opened" in told and "nobody listens there" in told


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--images", "camera:0", "--annotations", "a.json"], "--annotations does not work"),
        (["--images", "camera:0", "--live-keep", "0"], "--live-keep must be at least 1"),
        (["--images", "camera:0", "--live-reconnect", "0"], "--live-reconnect must be at least 1"),
        (["--images", "film.mp4", "--live-frames", "3"], "--live-frames only works where"),
    ],
)
def test_what_does_not_go_together_is_refused(more, expected, tmp_path, weights, capsys):
    code = main(["--weights", str(weights), "--output", str(tmp_path / "r.json"), *more])
    assert code == 2 and expected in capsys.readouterr().err


def test_quantiles_are_right_to_one_percent():
    latencies, seconds = Latencies(), np.random.default_rng(0).lognormal(-4, 1, 20_000)
    for value in seconds:
        latencies.add(float(value))
    for share in (0.5, 0.99):
        assert latencies.quantile(share) == pytest.approx(np.quantile(seconds, share), rel=0.011)
    assert len(latencies._buckets) < 2000 and np.isnan(Latencies().quantile(0.5))
