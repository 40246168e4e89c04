"""The loop: what it writes, and how it stops when the loss breaks down."""

import json
import logging
import math

import pytest
import torch

from seqformer.distributed.context import DistributedContext
from seqformer.model import model_from_checkpoint
from seqformer.trainer import build, step, trainer
from seqformer.trainer.loss_plot import plot_losses
from seqformer.trainer.loss_window import LossWindow
from seqformer.trainer.nonfinite_steps import NonFiniteLossError
from seqformer.trainer.run_log import RunLog, memory_gb, read_training_lines
from seqformer.trainer.terminal import setup_logging
from seqformer.trainer.trainer import train
from tests.trainer.one_step import build_step, take_step
from tests.trainer.tiny import TinyLoader, build_tiny_loader, make_batch, tiny_config


def test_run_leaves_log_config_and_checkpoint(tiny_data, tmp_path):
    assert train(tiny_config(tmp_path / "run", max_steps=5, log_every=2)) == {}
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert files == {"log.jsonl", "config.json", "checkpoints", "model.safetensors"}
    records = read_training_lines(tmp_path / "run/log.jsonl")
    assert [r["step"] for r in records] == [2, 4, 5]
    assert [r["epoch"] for r in records] == [0, 1, 1]
    expected = {"loss", "loss_ce", "loss_dice_0", "grad_norm", "lr", "time", "clips_per_second"}
    assert all(expected <= r.keys() for r in records)
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


class BrokenLoader(TinyLoader):
    """The second batch of every epoch but the first has an image that is not a number."""

    def _batches(self):
        for number, batch in enumerate(super()._batches(), start=self.start_step):
            if self.epoch >= 1 and number == 1:
                batch.images[0, 0, 0, 0, 0] = math.nan
            yield batch


@pytest.fixture
def broken_data(tiny_data, monkeypatch):
    def build(config, seed, rank, world_size):
        return BrokenLoader(config), build_tiny_loader(config, seed, 0, 1)[1]

    monkeypatch.setattr(trainer, "build_train_loader", build)


def test_bad_steps_are_skipped_written_down_and_in_the_end_too_many(broken_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=20, max_skipped_steps=2)
    reason = r"step 11: .*clip 30100; clip 30101. 3 step\(s\) were skipped.*allows 2.*step_0000000"
    with pytest.raises(NonFiniteLossError, match=reason):
        train(config)
    lines = (config.output / "skipped_steps.jsonl").read_text().splitlines()
    skipped = [json.loads(line) for line in lines]
    assert [s["step"] for s in skipped] == [5, 8, 11]
    assert skipped[0]["clips"] == ["clip 10100", "clip 10101"]
    assert "the loss is not finite (loss_bbox" in skipped[0]["reason"]
    records = read_training_lines(config.output / "log.jsonl")
    assert [r["step"] for r in records] == [1, 2, 3, 4, 6, 7, 9, 10]
    assert records[-1]["skipped_steps"] == 2
    model, _ = model_from_checkpoint(config.output / "checkpoints/step_00000009")
    assert all(p.isfinite().all() for p in model.parameters())


def test_skipped_step_changes_neither_weights_nor_moments():
    step_ = build_step(DistributedContext(), "none", dtype=torch.float32)
    take_step(step_, 1, clips=2)

    def state():
        moments = [t for s in step_.optimizer.state.values() for t in s.values()]
        return [t.clone() for t in (*step_.parallel_model.model.parameters(), *moments)]

    before = state()
    batch = make_batch(0, 0, range(1, 3))
    batch.images[0, 0] = math.nan
    losses = step_([batch], 3.0)
    assert losses["skipped"] == 1 and not losses["grad_norm"].isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    step_([make_batch(0, 0, range(1, 3))], 3.0)
    assert not all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))


def test_exploding_gradient_is_named_although_the_loss_is_sound(tiny_data, tmp_path, monkeypatch):
    """The gradient of step 2 is infinite; nobody looks before step 9."""

    def exploding(parameters, max_norm):
        exploding.steps += 1
        if exploding.steps == 2:
            parameters[0].grad.fill_(math.inf)
        return clip_gradients(parameters, max_norm)

    exploding.steps = 0
    clip_gradients = step.clip_gradients
    monkeypatch.setattr(step, "clip_gradients", exploding)
    config = tiny_config(tmp_path / "run", max_steps=9, log_every=100)
    with pytest.raises(NonFiniteLossError, match=r"step 2: the gradient.*clip 100; clip 101"):
        train(config)
    assert not (tmp_path / "run/checkpoints").exists()


def test_weights_that_an_update_broke_are_not_saved(tiny_data, tmp_path, monkeypatch):
    """Loss and gradient of step 2 are sound; the update itself overflows."""

    class Overflowing(step.TrainingStep):
        steps = 0

        def __call__(self, *arguments):
            losses = super().__call__(*arguments)
            self.steps += 1
            if self.steps == 2:
                self.parallel_model.model.level_embed.data.fill_(math.inf)
            return losses

    monkeypatch.setattr(build, "TrainingStep", Overflowing)
    with pytest.raises(NonFiniteLossError, match=r"step 2: the update made weights.*of step 1"):
        train(tiny_config(tmp_path / "run", max_steps=9, checkpoint_every=1))
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step_00000001"]


def skip_together(parallel):
    """Rank 1 alone has a broken clip."""
    step_ = build_step(parallel, dtype=torch.float32)
    before = [p.clone() for p in step_.parallel_model.model.parameters()]
    batch = make_batch(0, 0, range(parallel.rank + 1, parallel.rank + 2))
    if parallel.rank == 1:
        batch.images[:] = math.nan
    losses = step_([batch], 2.0)
    window = LossWindow(parallel)
    window.add(7, [f"clip of {parallel.rank}"], losses)
    same = [
        torch.equal(a, b)
        for a, b in zip(before, step_.parallel_model.model.parameters(), strict=True)
    ]
    return all(same), window.fetch()


@pytest.mark.distributed
def test_processes_skip_together_and_name_the_guilty_clip(lasting_processes):
    for unchanged, (bad, sound) in lasting_processes.run(2, skip_together):
        assert unchanged and sound == 0
        assert [(b.step, b.clips, b.is_loss_finite) for b in bad] == [(7, ["clip of 1"], False)]


def test_loss_curve_is_a_picture_of_the_training_lines(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 2.0, "loss_ce": 1.0}\n{"step": 1, "validation": {}}\n')
    plot_losses(log, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_progress_bar_and_plain_lines(tmp_path, monkeypatch, caplog):
    record = {"step": 1, "loss": 2.0, "lr": 1e-4, "clips_per_second": 3.0, "data_wait": 0.25}
    record |= {"memory_gb": memory_gb(torch.device("cpu")), "eta_seconds": 61.0, "loss_ce": 0.5}
    monkeypatch.setattr("seqformer.trainer.run_log.sys.stderr.isatty", lambda: False)
    with caplog.at_level("INFO", logger="seqformer"):
        log = RunLog(tmp_path, total_steps=10, first_step=0, enabled=True)
        log.training_line(record)
    assert "step 1/10  loss 2.000 (class 0.500)" in caplog.text
    assert "data 25%" in caplog.text and "ETA 01:01" in caplog.text
    RunLog(tmp_path, total_steps=10, first_step=0, enabled=False).training_line(record)
    assert len(read_training_lines(tmp_path / "log.jsonl")) == 1


def test_warnings_go_to_standard_error_and_the_rest_to_standard_output(capsys):
    package = logging.getLogger("seqformer")
    before = package.handlers[:], package.propagate, package.level
    try:
        setup_logging(is_main=True)
        package.info("a step")
        package.warning("a danger")
    finally:
        package.handlers[:], package.propagate, level = before
        package.setLevel(level)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a step\n", "a danger\n")
