"""Profile, TensorBoard and memory report: what a user gets to see."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seqformer.config import presets
from seqformer.trainer.errors import SetupError
from seqformer.trainer.memory_report import Ledger, memory_report
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


def test_tensorboard_has_scalars_and_drawn_validation_videos(drawn, tmp_path):  # noqa: F811
    config = config_for(drawn, tmp_path / "run", max_steps=2, tensorboard=True)
    train(config)
    board = EventAccumulator(str(config.output / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    wanted = {"loss/loss", "loss/loss_dice_0", "run/lr", "run/grad_norm", "validation/AP"}
    assert wanted <= set(tags["scalars"])
    assert [event.step for event in board.Scalars("loss/loss")] == [1, 2]
    assert len(tags["images"]) == 2
    picture = board.Images(tags["images"][0])[0]
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
    assert plain.gathered == 0 and plain.shape == (2, 6, 128, 192)
    again = report(recompute=("backbone", "encoder", "decoder"))
    assert again.activations < 0.7 * plain.activations
    chunked = report(frame_chunk=1)
    assert chunked.activations + chunked.workspace < 0.7 * (plain.activations + plain.workspace)
    monkeypatch.setenv("WORLD_SIZE", "8")
    sharded = report(parallel="fsdp")
    assert sharded.optimizer == plain.optimizer // 8 and sharded.gathered > 0
    assert "together" in str(sharded)


@pytest.mark.slow
def test_swin_l_fits_32_gb_and_long_clips_cost_little_more():
    """At the published scales, one clip; 2 GB are left for CUDA itself."""
    config = presets()["swin_l"][1]
    assert memory_report(config).total < 30 * 2**30
    low = replace(config, precision="bf16")
    assert memory_report(low).activations < 0.65 * memory_report(config).activations
    five = memory_report(low).total
    thirty = replace(low, data=replace(low.data, num_frames=30), frame_chunk=5)
    assert memory_report(thirty).total < 1.6 * five


def test_command_prints_the_report_and_stops(tiny_data, tmp_path, caplog):
    config = tiny_config(tmp_path / "run", memory_report=True)
    with caplog.at_level("INFO", logger="seqformer"):
        assert train(config) == {}
    assert "activations" in caplog.text and not (tmp_path / "run").exists()
