"""Profile, TensorBoard and memory report: what a user gets to see."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.autograd import DeviceType

from seqformer.config import OptimConfig, override, presets
from seqformer.trainer.errors import SetupError
from seqformer.trainer.memory_ledger import Ledger
from seqformer.trainer.memory_report import memory_report
from seqformer.trainer.profile import phase_seconds, table
from seqformer.trainer.trainer import train
from tests.trainer.test_validate import config_for, drawn  # noqa: F401
from tests.trainer.tiny import tiny_config


def test_profile_writes_a_trace_and_a_table_and_stops(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=50, profile=True)
    assert train(config) == {}
    table = (config.output / "profile/table_rank0.txt").read_text()
    rows = dict(line.split(" ", 1) for line in table.split("\n\n")[1].splitlines())
    assert {"step", "data", "forward", "losses", "backward", "update", "anything"} <= rows.keys()
    times = {name: float(row.split(" ms")[0].split()[-1]) for name, row in rows.items()}
    assert sum(times.values()) == pytest.approx(2 * times["step"], abs=1.0)
    assert "aten::" in table
    trace = json.loads((config.output / "profile/trace_rank0.json").read_text())
    assert any(event.get("name") == "step/backward" for event in trace["traceEvents"])
    assert not (config.output / "model.safetensors").exists()


class Event:
    """Of the profiler: a span in microseconds, and the kernels launched in it."""

    def __init__(self, name, start, end, *kernels, device_type=DeviceType.CPU):
        self.name, self.device_type = name, device_type
        self.time_range = SimpleNamespace(start=start, end=end)
        self.kernels = [SimpleNamespace(duration=duration) for duration in kernels]


PHASES_OF_A_STEP = [
    Event("step/data", 0, 20_000),
    Event("step/forward", 20_000, 30_000),
    Event("aten::mm", 21_000, 21_010, 5_000),
    Event("step/forward", 20_500, 26_000, device_type=DeviceType.CUDA),  # the GPU's own annotation
    Event("step/losses", 30_000, 32_000),
    Event("step/backward", 32_000, 40_000),
    Event("MmBackward0", 33_000, 33_050),  # in autograd's thread
    Event("aten::mm", 33_010, 33_020, 6_000, 4_000),
    Event("step/update", 40_000, 50_000),
    Event("aten::_fused_adamw_", 41_000, 41_100, 1_000),
    Event("aten::copy_", 60_000, 60_010, 500),
]
"""50 ms in which the host waits for data for 20, and the GPU has 16.5 ms of work."""


def test_kernels_of_autograds_thread_belong_to_the_backward_phase():
    seconds = phase_seconds(PHASES_OF_A_STEP, 1)
    gpu = {name: kernels for name, (_, kernels) in seconds.items()}
    expected = {"step/data": 0.0, "step/forward": 5e-3, "step/losses": 0.0, "step/backward": 10e-3}
    assert gpu == pytest.approx(expected | {"step/update": 1e-3, "": 0.5e-3})
    assert seconds["step/data"][0] == pytest.approx(20e-3)


def test_the_table_of_a_gpu_shows_waiting_for_data_and_an_idle_gpu():
    lines = table(PHASES_OF_A_STEP, 0.05, 1, on_gpu=True)
    rows = {line[:16].strip(): re.findall(r"([\d.]+) ms", line) for line in lines}
    assert rows["data"] == ["20.0", "0.0"] and rows["backward"] == ["8.0", "10.0"]
    assert rows["no kernel"] == ["33.5"] and rows["step"] == ["50.0"]


def test_tensorboard_has_scalars_and_drawn_validation_videos(drawn, tmp_path):  # noqa: F811
    config = config_for(drawn, tmp_path / "run", max_steps=2, tensorboard=True)
    train(config)
    tensorboard = EventAccumulator(str(config.output / "tensorboard"))
    tensorboard.Reload()
    tags = tensorboard.Tags()
    expected_tags = {"loss/loss", "loss/loss_dice_0", "run/lr", "run/grad_norm", "validation/AP"}
    assert expected_tags <= set(tags["scalars"])
    assert [event.step for event in tensorboard.Scalars("loss/loss")] == [1, 2]
    assert len(tags["images"]) == 2
    picture = tensorboard.Images(tags["images"][0])[0]
    assert picture.encoded_image_string.startswith(b"\x89PNG") and picture.width > picture.height


def test_tensorboard_without_the_package_is_said(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SetupError, match=r"needs the package tensorboard.*pip install"):
        train(tiny_config(tmp_path / "run", tensorboard=True))


def test_ledger_counts_what_is_alive():
    with Ledger() as ledger:
        first = torch.empty(1024, device="meta")
        view = first[3:]
        second = torch.empty(1, device="meta")
        assert ledger.alive == 4096 + 512  # rounded up as CUDA does
        del first, second
        assert ledger.alive == 4096  # the view keeps it
        del view
        assert (ledger.alive, ledger.peak) == (0, 4096 + 512)


def test_memory_report_knows_weights_and_follows_the_settings(monkeypatch):

    def report(**changes):
        config = tiny_config(Path("unused"), **changes)
        data = replace(config.data, num_frames=6)
        return memory_report(replace(config, data=data), (128, 192))

    plain = report()
    assert plain.optimizer == 2 * plain.gradients
    muon = report(optim=OptimConfig(muon=2.0)).optimizer
    assert plain.gradients < muon < 1.4 * plain.gradients
    assert plain.gathered == 0 and plain.shape == (2, 6, 128, 192)
    again = report(recompute=("backbone", "encoder", "decoder"))
    assert again.activations < 0.7 * plain.activations
    chunked = report(frame_chunk=2)
    assert chunked.activations + chunked.workspace < 0.7 * (plain.activations + plain.workspace)
    monkeypatch.setenv("WORLD_SIZE", "8")
    sharded = report(parallel="fsdp")
    assert sharded.gradients == plain.gradients // 8
    # Until the last backward pass of a step, each process keeps its own gradients whole.
    assert report(parallel="fsdp", frame_chunk=3).gradients == plain.gradients
    clips = replace(tiny_config(Path("unused")).data, global_batch_size=32)
    accumulating = memory_report(
        replace(tiny_config(Path("unused"), parallel="fsdp"), data=clips), (128, 192)
    )
    assert accumulating.gradients == plain.gradients
    assert sharded.optimizer == plain.optimizer // 8 and sharded.gathered > 0
    assert "together" in str(sharded)


@pytest.mark.slow
def test_swin_l_fits_32_gb_and_long_clips_cost_little_more():
    """At the published scales, one clip; 2 GB are left for CUDA itself."""
    config = presets()["swin_l"][1]
    assert memory_report(config).total < 30 * 2**30
    low = override(config, precision="bf16")
    assert memory_report(low).activations < 0.65 * memory_report(config).activations
    five = memory_report(low).total
    thirty = override(low, data=replace(low.data, num_frames=30), frame_chunk=5)
    assert memory_report(thirty).total < 1.6 * five


def test_command_prints_the_report_and_stops(tiny_data, tmp_path, caplog):
    config = tiny_config(tmp_path / "run", memory_report=True)
    with caplog.at_level("INFO", logger="seqformer"):
        assert train(config) == {}
    assert "activations" in caplog.text and not (tmp_path / "run").exists()
