"""The demo: everything from an empty folder, in one or several processes."""

import json
import signal
from dataclasses import replace
from multiprocessing import get_context

import pytest

from seqformer.config import DemoConfig, EvalConfig, override, presets
from seqformer.trainer import demo
from seqformer.trainer.demo import choose_processes, run_demo
from seqformer.trainer.errors import SetupError
from seqformer.trainer.run_log import read_training_lines
from tests.trainer.tiny import tiny_model_config


def small_demo(output, **changes) -> DemoConfig:
    config = presets()["demo"][1]
    assert isinstance(config, DemoConfig)
    augment = replace(config.data.augment, short_sides=(32,), max_long_side=64)
    return override(
        config,
        output=output,
        device="cpu",
        num_train_videos=2,
        num_val_videos=2,
        video_length=3,
        frame_size=(32, 64),
        max_steps=2,
        log_every=1,
        model=tiny_model_config(),
        data=replace(
            config.data, num_frames=2, single_frame_steps=1, batch_size=2, augment=augment
        ),
        eval=EvalConfig(short_side=32),
        **changes,
    )


def test_the_demo_ends_with_clips():
    config = presets()["demo"][1]
    assert 0 < config.data.single_frame_steps < config.max_steps and config.data.num_frames > 1


def losses(config: DemoConfig) -> list[float]:
    return [r["loss"] for r in read_training_lines(config.output / "log.jsonl")]


def test_demo_goes_from_nothing_to_pictures(tmp_path):
    config = small_demo(tmp_path / "demo", processes=1)
    metrics = run_demo(config)
    files = {p.name for p in config.output.iterdir()}
    expected = {"data", "config.json", "log.jsonl", "checkpoints", "loss.png"}
    expected |= {"best.json", "best.safetensors", "model.safetensors"}
    assert files == expected | {"results.json", "metrics.json", "predictions.gif", "report"}
    assert (config.output / "report" / "index.html").is_file()
    assert metrics == json.loads((config.output / "metrics.json").read_text())
    assert {"AP", "wall_seconds", "seed", "processes", "threads", "config"} <= metrics.keys()


@pytest.mark.distributed
def test_two_processes_see_the_clips_of_one_and_resume_as_one(tmp_path):
    one = replace(small_demo(tmp_path / "one", processes=1), max_steps=3)
    two = replace(one, output=tmp_path / "two", processes=2, max_steps=2)
    run_demo(one)
    assert run_demo(two)["processes"] == 2
    assert run_demo(override(two, max_steps=3, processes=1, resume=True))["processes"] == 1
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)


@pytest.mark.parametrize(
    "cores,load,batch,asked,expected",
    [
        (1, 0.0, 4, 0, (1, 1)),
        (2, 0.1, 4, 0, (2, 1)),
        (2, 1.8, 4, 0, (1, 1)),
        (8, 0.0, 4, 0, (2, 4)),
        (8, 0.0, 3, 0, (1, 8)),
        (8, 3.9, 4, 4, (4, 1)),
        (1, 1.0, 4, 2, (2, 1)),
    ],
)
def test_processes_follow_cores_load_and_batch(monkeypatch, cores, load, batch, asked, expected):
    monkeypatch.setattr(demo, "usable_cores", lambda: cores)
    ticks = iter([(1000, 9000), (1000 + int(100 * load), 9000 + 100 * cores)])
    monkeypatch.setattr(demo, "_processor_times", lambda: next(ticks))
    monkeypatch.setattr(demo, "CONTENTION_SECONDS", 0.0)
    monkeypatch.setattr(demo.os, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    config = small_demo("unused", processes=asked)
    config = replace(config, data=replace(config.data, batch_size=batch))
    assert choose_processes(config) == expected


@pytest.mark.parametrize("allowed,threads", [("1", 1), ("3", 3), ("64", 8), ("0", 8), ("x", 8)])
def test_threads_are_no_more_than_openmp_may_have(monkeypatch, allowed, threads):
    monkeypatch.setattr(demo, "free_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    assert choose_processes(small_demo("unused", processes=1)) == (1, threads)


def test_batch_that_cannot_be_shared_is_refused(tmp_path):
    with pytest.raises(SetupError, match=r"cannot share --data\.batch-size 2 evenly"):
        run_demo(small_demo(tmp_path, processes=3))


def test_a_process_that_ends_before_all_have_met_is_missed_by_rank_0():
    context = get_context("fork")
    peers = [context.Process(target=signal.pause) for _ in range(2)]
    for peer in peers:
        peer.start()
    try:
        assert demo._ended(peers) is None
        peers[1].kill()
        peers[1].join()
        assert demo._ended(peers) == "rank 2 ended before all had met"
    finally:
        peers[0].kill()
        peers[0].join()
