"""Frames from an address: served on loopback, followed, interrupted, and reported."""

from __future__ import annotations

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
from seqformer.data.live_address import is_live
from seqformer.data.live_source import LiveSource
from seqformer.inference import Predictor
from seqformer.inference.live import Latencies, follow
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
    with served(transport_stream(film(12)), loops=2, scheme=scheme) as address:
        code = main(
            [
                *("--weights", str(weights), "--images", address, "--live-policy", "all"),
                *("--output", str(paths["results"]), "--metrics", str(paths["metrics"])),
                *("--short-side", "32", "--live-keep", "5", "--device", "cpu", "--threads", "1"),
                *("--visualize", str(tmp_path / "drawn"), "--visualize-min-score", "0"),
            ]
        )
    assert code == 0
    metrics = json.loads(paths["metrics"].read_text())
    assert metrics["dropped"] == 0 and metrics["frames"] >= 20
    assert 0 < metrics["latency_ms_p50"] <= metrics["latency_ms_p99"]
    results = json.loads(paths["results"].read_text())
    assert results and all(len(entry["segmentations"]) == 5 for entry in results)
    with av.open(str(tmp_path / "drawn" / "live.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == metrics["frames"]


def test_newest_first_drops_what_nobody_took():
    with served(transport_stream(film(30))) as address, LiveSource(address) as source:
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
    path = tmp_path / "live.mp4"
    with served(transport_stream(film(60))) as address, LiveSource(address) as source:
        _, report = follow(predictor, source, keep=1, film=path)
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


def test_what_nobody_serves_is_one_sentence(tmp_path, weights, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    code = main(["--weights", str(weights), "--images", address, "--output", str(tmp_path / "r")])
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and f"{address} cannot be opened" in told and "check that it sends" in told


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--images", "camera:0", "--annotations", "a.json"], "--annotations does not work"),
        (["--images", "camera:0", "--live-keep", "0"], "--live-keep must be at least 1"),
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
