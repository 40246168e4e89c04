"""Frozen parts, averaged weights, learning rates by layer, and ends before the end."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

from seqformer.cli.train import parse
from seqformer.config import (
    EvalConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TuningConfig,
    override,
    presets,
)
from seqformer.distributed.context import DistributedContext
from seqformer.model import build_model_from_config, load_checkpoint
from seqformer.trainer import trainer
from seqformer.trainer import validate as validate_module
from seqformer.trainer.build import build_training
from seqformer.trainer.errors import SetupError
from seqformer.trainer.frozen_parts import _PREFIXES, freeze
from seqformer.trainer.optim import lr_factor, parameter_groups
from seqformer.trainer.run_log import read_log, read_training_lines
from seqformer.trainer.trainer import Trainer, train
from seqformer.trainer.weight_average import WeightAverage
from tests.trainer.one_step import build_step, gradients, take_step
from tests.trainer.test_checkpoint import assert_same_state
from tests.trainer.test_resume import run_part, six_clips
from tests.trainer.test_validate import config_for, drawn  # noqa: F401
from tests.trainer.tiny import tiny_config, tiny_model_config

ONE = DistributedContext()
PARTS = tuple(_PREFIXES)
LEARNING_RATE = OptimConfig().lr


def states(config, checkpoint=None):
    return load_checkpoint(checkpoint or config.output / "model.safetensors").state


@pytest.mark.parametrize("backbone", ["resnet_mini", "resnet50", "swin_t"])
def test_every_parameter_belongs_to_one_part(backbone):
    with torch.device("meta"):
        model = build_model_from_config(replace(tiny_model_config(), backbone=backbone))
    for name, _ in model.named_parameters():
        assert sum(name.startswith(_PREFIXES[part]) for part in PARTS) == 1, name


@pytest.mark.parametrize("parts", [("backbone",), ("encoder", "decoder"), PARTS[:4] + PARTS[5:]])
def test_frozen_parts_stay_and_the_others_do_not(tiny_data, tmp_path, parts):
    config = tiny_config(tmp_path / "run", max_steps=2, freeze=parts)
    config.output.mkdir()
    made = Trainer(config, ONE)
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    made.fit()
    prefixes = tuple(prefix for part in parts for prefix in _PREFIXES[part])
    for name, parameter in made.model.named_parameters():
        if name.startswith(prefixes):
            assert torch.equal(parameter, before[name]), name
            assert parameter.grad is None and not made.optimizer.state[parameter]
        elif parameter.requires_grad and "reference" not in name:
            assert not torch.equal(parameter, before[name]), name
    listed = {id(p) for g in made.optimizer.param_groups for p in g["params"]}
    assert listed == {id(p) for n, p in made.model.named_parameters() if not n.startswith(prefixes)}

    last = read_training_lines(config.output / "log.jsonl")[-1]
    assert (last["lr_backbone"] == 0) is ("backbone" in parts)


def test_a_frozen_run_resumes_bit_for_bit_and_not_as_another(tiny_data, tmp_path):
    model = replace(tiny_model_config(), dropout=0.1)
    whole = tiny_config(tmp_path / "whole", max_steps=5, model=model, freeze=("backbone",))
    whole = override(whole, ema_decay=0.9)
    train(whole)
    part = replace(whole, output=tmp_path / "part")
    train(replace(part, max_steps=2))
    train(override(part, resume=True))
    assert_same_state(part, whole)
    assert all(torch.equal(states(part)[k], v) for k, v in states(whole).items())
    for changes in ({"freeze": ()}, {"ema_decay": 0.0}, {"ema_decay": 0.99}):
        with pytest.raises(SetupError, match=rf"tuning\.{next(iter(changes))} was"):
            train(override(part, resume=True, max_steps=6, **changes))


def test_nothing_left_to_train_is_refused(tiny_data, tmp_path):
    with pytest.raises(SetupError, match="--freeze leaves nothing to train"):
        train(tiny_config(tmp_path / "run", freeze=PARTS))


@pytest.mark.parametrize("parts", [("backbone", "encoder", "decoder"), ("backbone",)])
def test_frozen_parts_and_frames_a_few_at_a_time(parts):
    """Behind frozen parts no chunk has a gradient to go back from."""
    expected = None
    for frame_chunk in (0, 1):
        step = build_step(ONE, frame_chunk=frame_chunk)
        freeze(step.parallel_model.model, parts)
        take_step(step, 1)
        actual = gradients(step)
        if expected is None:
            expected = actual
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, atol=1e-9, rtol=1e-7, msg=name)


@pytest.mark.distributed
@pytest.mark.parametrize("mode,part", [("ddp", "encoder"), ("fsdp", "backbone")])
def test_two_processes_freeze_and_average_as_one(
    tiny_data, lasting_processes, tmp_path, mode, part
):
    """Nothing waits for gradients that never come; the average is that of one process."""
    config = override(six_clips(tmp_path / "one"), freeze=(part,), ema_decay=0.8, max_steps=3)
    train(config)
    both = override(config, output=tmp_path / mode, parallel=mode)
    lasting_processes.run_alone(2, run_part, both)
    for where in ("model.safetensors", "checkpoints/step_00000003"):
        one, other = (states(c, c.output / where) for c in (config, both))
        assert_close(other, one)
    resumed = override(config, output=tmp_path / f"{mode}_on", parallel=mode)
    lasting_processes.run_alone(2, run_part, override(resumed, max_steps=2))
    train(override(resumed, resume=True))  # another number of processes goes on with the average
    assert_close(states(resumed), states(config))


def assert_close(actual, expected):
    """All weights, but for biases that a GroupNorm takes out again and one element in ten thousand:
    where a gradient is little but rounding, AdamW makes a share of a step of that."""
    for name, value in expected.items():
        if not re.search(r"input_proj\.\d\.0\.bias", name):
            differs = ~torch.isclose(actual[name], value, atol=2e-5, rtol=1e-4)
            assert differs.double().mean() < 1e-4, name
            torch.testing.assert_close(actual[name], value, atol=LEARNING_RATE, rtol=0, msg=name)


def test_the_average_is_its_formula_and_the_weights_come_back():
    model = build_model_from_config(tiny_model_config())
    average = WeightAverage(model, 0.7)
    weight = model.level_embed
    expected = weight.detach().double().clone()
    for step in range(1, 30):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight))
        average.update(step)
        share = min(0.7, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * weight.detach().double()
    own = average.tensors()["detr.transformer.level_embed"]
    torch.testing.assert_close(own.double(), expected, atol=1e-5, rtol=1e-5)
    before = weight.detach().clone()
    with pytest.raises(KeyError), average.in_place():
        assert torch.equal(weight, own)
        raise KeyError
    assert torch.equal(weight, before) and not torch.equal(weight, own)


def test_the_average_is_validated_and_exported_and_training_goes_on(drawn, tmp_path):  # noqa: F811
    plain = config_for(drawn, tmp_path / "plain", max_steps=5, eval_every_epochs=1)
    train(plain)
    averaged = override(plain, output=tmp_path / "averaged", ema_decay=0.5)
    train(averaged)
    lines = [read_training_lines(c.output / "log.jsonl") for c in (plain, averaged)]
    assert [r["loss"] for r in lines[0]] == [r["loss"] for r in lines[1]]
    exported, last = states(averaged), states(plain)
    assert any(not torch.equal(exported[k], v) for k, v in last.items())
    from_folder = states(averaged, averaged.output / "checkpoints/step_00000005")
    assert all(torch.equal(exported[k], v) for k, v in from_folder.items())


@pytest.mark.parametrize("depths,total", [("swin_t", 12), ("swin_l", 24)])
def test_rates_fall_from_block_to_block(depths, total):
    config = presets()["swin_l"][1] if depths == "swin_l" else None
    model_config = config.model if config else ModelConfig(backbone="swin_t")
    with torch.device("meta"):
        model = build_model_from_config(model_config)
    plain = parameter_groups(model, OptimConfig())
    split = parameter_groups(model, OptimConfig(), TuningConfig(layer_decay=0.9))
    rate = {name: group["lr"] for group in split for name, _ in group["params"]}
    assert sorted(rate) == sorted(name for group in plain for name, _ in group["params"])
    body = "detr.backbone.0.body."
    last = re.search(r"\d+$", max(split, key=lambda g: len(g["params"]))["name"])
    assert last is None  # the group of everything but the backbone is as it was
    assert rate[body + "patch_embed.proj.weight"] == pytest.approx(2e-5 * 0.9**total)
    assert rate[body + "layers.0.blocks.0.norm1.weight"] == pytest.approx(2e-5 * 0.9 ** (total - 1))
    assert rate[body + "layers.3.blocks.1.norm1.weight"] == pytest.approx(2e-5)
    assert rate[body + "norm3.weight"] == pytest.approx(2e-5)
    merge, block = rate[body + "layers.0.downsample.norm.weight"], "layers.0.blocks.1.norm1.weight"
    assert merge == rate[body + block] == rate[body + "norm0.weight"]
    assert [g["name"] for g in split][:2] == ["main", "backbone"]


def test_rates_by_layer_are_for_swin():
    with pytest.raises(ValueError, match="layer_decay is for Swin"):
        override(TrainConfig(), layer_decay=0.9)


def test_drops_by_steps_and_a_warm_up_that_is_none():
    config = presets()["vnext_r50"][1].optim
    factors = {step: lr_factor(step, config, 100, 12_000) for step in (0, 5, 10, 7999, 8000, 11999)}
    assert factors == {0: 1, 5: 1, 10: 1, 7999: 1, 8000: 0.1, 11999: 0.1}
    half = replace(config, warmup_factor=0.5)
    assert [lr_factor(step, half, 100, 12_000) for step in (0, 5, 10)] == [0.5, 0.75, 1]
    ours, same = replace(config, warmup_factor=None), replace(config, warmup_factor=1 / 11)
    for step in range(10):
        assert lr_factor(step, ours, 100, 1) == pytest.approx(lr_factor(step, same, 100, 1))


def scores_of(monkeypatch, aps):
    """Validations give these APs in turn."""
    left = list(aps)
    real = validate_module.ValidationSet.score

    def score(*arguments, **named):
        metrics = real(*arguments, **named)
        return {**metrics, "AP": left.pop(0)}

    monkeypatch.setattr(validate_module.ValidationSet, "score", score)
    return left


def test_a_run_ends_when_the_ap_grows_no_more(drawn, tmp_path, monkeypatch, caplog):  # noqa: F811
    """Three steps per epoch: best after the second, ended after the fourth."""
    config = config_for(drawn, tmp_path / "run", max_steps=30, eval_every_epochs=1)
    config = override(config, patience=2, eval=EvalConfig(short_side=32))
    left = scores_of(monkeypatch, [0.1, 0.3, 0.2, 0.3, 0.1])
    monkeypatch.setattr(trainer.logger, "propagate", True)
    train(config)
    assert json.loads((config.output / "best.json").read_text())["step"] == 6
    assert read_log(config.output / "log.jsonl")[-1]["step"] == 12
    assert left == [0.1] and (config.output / "model.safetensors").is_file()
    train(override(config, resume=True))  # it has ended
    assert read_training_lines(config.output / "log.jsonl")[-1]["step"] == 12
    left[:] = [0.2] * 20
    train(override(config, resume=True, patience=3))
    assert read_training_lines(config.output / "log.jsonl")[-1]["step"] == 15


def test_patience_needs_validations():
    with pytest.raises(ValueError, match="patience 2 counts validations"):
        override(TrainConfig(), patience=2)


@pytest.mark.parametrize(
    "words",
    [
        ["--freeze", "backbone", "encoder"],
        ["--freeze", "backbone,encoder"],
        ["--freeze", "backbone", "--seed", "3", "--freeze", "encoder"],
        ["--freeze=backbone", "--freeze=encoder"],
    ],
)
def test_parts_are_given_in_any_way(words):
    assert parse(["r50", *words]).tuning.freeze == ("backbone", "encoder")


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse(["r50", "--freeze", "head"])
    assert "class_heads" in capsys.readouterr().err


def test_memory_knows_what_is_frozen_and_averaged():
    from seqformer.trainer.memory_report import memory_report

    config = tiny_config(TrainConfig().output)
    plain = memory_report(config, (32, 64))
    frozen = memory_report(override(config, freeze=("backbone",)), (32, 64))
    averaged = memory_report(override(config, ema_decay=0.9), (32, 64))
    assert frozen.gradients < plain.gradients and frozen.optimizer < plain.optimizer
    assert averaged.parameters == plain.parameters + plain.gradients


def test_what_is_built_has_no_average_unless_asked_for():
    assert build_training(tiny_config(TrainConfig().output), ONE, is_new=True).average is None
