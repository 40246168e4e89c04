"""Runs and configs from when a config was one flat table still load, and go on."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seqformer.config import DemoConfig, TrainConfig, config_from_dict, presets
from seqformer.inference import Predictor
from seqformer.trainer.checkpoint_folders import read_run
from seqformer.trainer.errors import SetupError
from seqformer.trainer.export import export_checkpoint
from seqformer.trainer.run_log import read_training_lines
from seqformer.trainer.trainer import train

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def flat_run(tmp_path, monkeypatch):
    """The folder of a run of two steps, in the current folder, as `make_flat_run.py` wrote it."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(GOLDEN / "flat_run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return Path("run")


def test_presets_are_what_they_were():
    flat = json.loads((GOLDEN / "flat_presets.json").read_text())
    for name, state in flat.items():
        config = presets()[name][1]
        if name == "demo":  # its recipe is another one by now
            data = replace(config.data, single_frame_steps=550)
            optim = replace(config.optim, warmup_steps=100, muon=0.0)
            config = replace(config, max_steps=770, data=data, optim=optim)
        assert config_from_dict(type(config), state) == config
    assert type(presets()["demo"][1]) is DemoConfig


def test_a_flat_run_goes_on_as_it_would_have(flat_run, tiny_data):
    config = config_from_dict(TrainConfig, json.loads((flat_run / "config.json").read_text()))
    args = {**json.loads((flat_run / "config.json").read_text()), "max_steps": 4, "resume": True}
    train(config_from_dict(TrainConfig, args))
    losses = [line["loss"] for line in read_training_lines(flat_run / "log.jsonl")]
    assert losses == pytest.approx(json.loads(Path("losses.json").read_text()), rel=1e-5)
    saved = read_run(flat_run / "checkpoints" / "step_00000004")
    assert config_from_dict(TrainConfig, saved["args"]).model == config.model
    with pytest.raises(SetupError, match=r"optim\.lr was 0\.001 and is now 0\.5"):
        train(config_from_dict(TrainConfig, {**args, "optim": {**args["optim"], "lr": 0.5}}))


def test_weights_of_a_flat_run_load(flat_run):
    checkpoint = flat_run / "checkpoints" / "step_00000002"
    predictor = Predictor.from_checkpoint(flat_run / "model.safetensors", device="cpu")
    again = Predictor.from_checkpoint(checkpoint, device="cpu")
    assert predictor.config == again.config and predictor.config.short_side == 360
    export_checkpoint(checkpoint, Path("exported.safetensors"))
    exported = Predictor.from_checkpoint(Path("exported.safetensors"), device="cpu")
    for one, other in ((again, predictor), (exported, predictor)):
        state = other.model.state_dict()
        assert all(torch.equal(t, state[name]) for name, t in one.model.state_dict().items())
