"""The loop: what it writes, and how it stops when the loss breaks down."""

import json
import math

import pytest
import torch

from seqformer.criterion import SetCriterion
from seqformer.model import build_model_from_config
from seqformer.trainer import step, trainer
from seqformer.trainer.optim import build_optimizer
from seqformer.trainer.progress import (
    NonFiniteLossError,
    RunLog,
    memory_gb,
    plot_losses,
    read_training_lines,
)
from seqformer.trainer.step import training_step
from seqformer.trainer.trainer import train
from tests.trainer.tiny import (
    TinyLoader,
    build_tiny_loader,
    make_batch,
    tiny_config,
    tiny_model_config,
)


def test_run_leaves_log_config_and_checkpoint(tiny_data, tmp_path):
    assert train(tiny_config(tmp_path / "run", max_steps=5, log_every=2)) == {}
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert files == {"log.jsonl", "config.json", "checkpoint.pth"}
    records = read_training_lines(tmp_path / "run/log.jsonl")
    assert [r["step"] for r in records] == [2, 4, 5]
    assert [r["epoch"] for r in records] == [0, 1, 1]
    wanted = {"loss", "loss_ce", "loss_dice_0", "grad_norm", "lr", "time", "clips_per_second"}
    assert all(wanted <= r.keys() for r in records)
    assert all(math.isfinite(v) for r in records for v in r.values())
    assert json.loads((tmp_path / "run/config.json").read_text())["max_steps"] == 5


def test_lines_hold_the_mean_since_the_previous_line(tiny_data, tmp_path):
    train(tiny_config(tmp_path / "each", max_steps=4, log_every=1))
    train(tiny_config(tmp_path / "pairs", max_steps=4, log_every=2))
    each = [r["loss"] for r in read_training_lines(tmp_path / "each/log.jsonl")]
    pairs = [r["loss"] for r in read_training_lines(tmp_path / "pairs/log.jsonl")]
    assert pairs == pytest.approx([sum(each[:2]) / 2, sum(each[2:]) / 2], rel=1e-6)


def test_same_seed_same_losses_other_seed_other_losses(tiny_data, tmp_path):
    runs = [(0, "a"), (0, "b"), (1, "c")]
    for seed, name in runs:
        train(tiny_config(tmp_path / name, max_steps=2, seed=seed))
    a, b, c = (
        [r["loss"] for r in read_training_lines(tmp_path / n / "log.jsonl")] for _, n in runs
    )
    assert a == b != c


def test_batch_without_any_instance_trains_every_parameter():
    torch.manual_seed(0)
    model = build_model_from_config(tiny_model_config())
    batch = make_batch(0, 0, range(0, 1))
    assert len(batch.targets[0]["labels"]) == 0
    optimizer = build_optimizer(model, tiny_config(None).optim)
    losses = training_step(model, SetCriterion(), optimizer, batch, torch.tensor(1.0), 1.0)
    assert math.isfinite(losses["loss"])
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


class BrokenLoader(TinyLoader):
    """One batch has an image that is not a number."""

    def _batches(self):
        for number, batch in enumerate(super()._batches()):
            if (self.epoch, number) == (1, 1):
                batch.images[0, 0, 0, 0, 0] = math.nan
            yield batch


def test_broken_batch_stops_the_run_and_spares_the_checkpoint(tmp_path, monkeypatch):
    def build(config, seed, rank, world_size):
        return BrokenLoader(config.batch_size), build_tiny_loader(config, seed, 0, 1)[1]

    monkeypatch.setattr(trainer, "build_train_loader", build)
    with pytest.raises(NonFiniteLossError, match=r"step 5: .*clip 10100; clip 10101.*of step 3"):
        train(tiny_config(tmp_path / "run", max_steps=9, log_every=10))
    saved = torch.load(tmp_path / "run/checkpoint.pth", weights_only=True)
    assert saved["step"] == 3
    assert all(v.isfinite().all() for v in saved["model"].values())


@pytest.mark.parametrize("checkpoint_every", [2, 1000])
def test_exploding_step_is_named_although_it_is_noticed_later(
    tiny_data, tmp_path, monkeypatch, checkpoint_every
):
    """The gradient of step 2 is infinite, so step 3 cannot be matched; nothing looked before."""

    def exploding(parameters, max_norm):
        exploding.steps += 1
        if exploding.steps == 2:
            parameters[0].grad.fill_(math.inf)
        return clip_gradients(parameters, max_norm)

    exploding.steps = 0
    clip_gradients = step.clip_gradients
    monkeypatch.setattr(step, "clip_gradients", exploding)
    config = tiny_config(
        tmp_path / "run", max_steps=9, log_every=100, checkpoint_every=checkpoint_every
    )
    with pytest.raises(NonFiniteLossError, match=r"step 2: the gradient.*clip 100; clip 101\. No"):
        train(config)
    assert not (tmp_path / "run/checkpoint.pth").exists()


def test_weights_that_an_update_broke_are_not_saved(tiny_data, tmp_path, monkeypatch):
    """Loss and gradient of step 2 are sound; the update itself overflows."""

    def overflowing(*arguments):
        losses = step.training_step(*arguments)
        overflowing.steps += 1
        if overflowing.steps == 2:
            arguments[0].level_embed.data.fill_(math.inf)
        return losses

    overflowing.steps = 0
    monkeypatch.setattr(trainer, "training_step", overflowing)
    with pytest.raises(NonFiniteLossError, match=r"step 2: the update made weights.*of step 1"):
        train(tiny_config(tmp_path / "run", max_steps=9, checkpoint_every=1))
    saved = torch.load(tmp_path / "run/checkpoint.pth", weights_only=True)
    assert saved["step"] == 1


def test_loss_curve_is_a_picture_of_the_training_lines(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 2.0, "loss_ce": 1.0}\n{"step": 1, "validation": {}}\n')
    plot_losses(log, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_progress_bar_and_plain_lines(tmp_path, monkeypatch, caplog):
    record = {"step": 1, "loss": 2.0, "lr": 1e-4, "clips_per_second": 3.0, "data_wait": 0.25}
    record |= {"memory_gb": memory_gb(torch.device("cpu")), "eta_seconds": 61.0, "loss_ce": 0.5}
    monkeypatch.setattr("seqformer.trainer.progress.sys.stderr.isatty", lambda: False)
    with caplog.at_level("INFO", logger="seqformer"):
        log = RunLog(tmp_path, total_steps=10, first_step=0, enabled=True)
        log.training_line(record)
    assert "step 1/10  loss 2.000 (class 0.500)" in caplog.text
    assert "data 25%" in caplog.text and "ETA 01:01" in caplog.text
    RunLog(tmp_path, total_steps=10, first_step=0, enabled=False).training_line(record)
    assert len(read_training_lines(tmp_path / "log.jsonl")) == 1
