"""A run goes on elsewhere: other numbers of processes, other modes, and after signals."""

import os
import shutil
import signal
import time
from dataclasses import replace

import pytest

from seqformer.config import OptimConfig, override
from seqformer.trainer import trainer
from seqformer.trainer.checkpoint_folders import complete_checkpoints, read_run
from seqformer.trainer.run_log import read_training_lines
from tests.trainer.tiny import CLASSES, TinyLoader, build_tiny_loader, tiny_config


def run_part(session, config):
    """`train` on tiny clips, as one of several processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "build_train_loader", build_tiny_loader)
        patch.setattr(trainer, "plot_losses", lambda log_path, png_path: None)
        trainer.train(config, **session)


def losses(folder):
    return [r["loss"] for r in read_training_lines(folder / "log.jsonl")]


def six_clips(output, **changes):
    """A global batch of six clips, at published learning rates."""
    config = tiny_config(output, max_steps=2, optim=OptimConfig(), **changes)
    return replace(config, data=replace(config.data, global_batch_size=6))


@pytest.mark.distributed
def test_two_sharded_processes_go_on_as_one_as_three_and_under_ddp(lasting_processes, tmp_path):
    """The same losses (1e-5), whoever reads what two FSDP processes wrote at step 2."""
    whole = override(
        six_clips(tmp_path / "whole", parallel="fsdp"), max_steps=4, checkpoint_every=2
    )
    lasting_processes.run_alone(2, run_part, whole)
    expected = losses(whole.output)
    for path in ("step_00000003", "step_00000004"):  # an epoch has three steps
        shutil.rmtree(whole.output / "checkpoints" / path)
    for processes, mode in ((1, "ddp"), (3, "fsdp"), (2, "ddp")):
        on = override(whole, output=tmp_path / f"{processes}{mode}", resume=True, parallel=mode)
        shutil.copytree(whole.output, on.output)
        lasting_processes.run_alone(processes, run_part, on)
        assert losses(on.output) == pytest.approx(expected, rel=1e-5), (processes, mode)


@pytest.mark.slow
@pytest.mark.distributed
def test_what_one_process_or_ddp_wrote_sharded_processes_read(lasting_processes, tmp_path):
    whole = replace(six_clips(tmp_path / "whole"), max_steps=5)
    train_here(whole)
    for processes, first, then in ((2, "ddp", "hsdp"), (3, "ddp", "fsdp"), (1, "ddp", "fsdp")):
        part = override(whole, output=tmp_path / f"{processes}{then}", max_steps=2, parallel=first)
        lasting_processes.run_alone(processes, run_part, part)
        on = override(part, max_steps=5, resume=True, parallel=then)
        lasting_processes.run_alone(2, run_part, on)
        assert losses(on.output) == pytest.approx(losses(whole.output), rel=1e-5)


def train_here(config):
    run_part({}, config)


class Interrupting(TinyLoader):
    """Something happens to rank 1 in step 2."""

    def __init__(self, happens, config, rank, world_size):
        super().__init__(config, rank, world_size)
        self.happens = happens if rank == world_size - 1 else None

    def _batches(self):
        first = self.start_step * self.micro_batches
        for number, batch in enumerate(super()._batches(), start=first):
            if self.happens is not None and (self.epoch, number) == (0, self.micro_batches):
                self.happens()
            yield batch


def be_asked_to_stop():
    for _ in range(2):  # by the scheduler and by torchrun
        os.kill(os.getpid(), signal.SIGTERM)


def be_asked_by_the_scheduler():
    os.kill(os.getpid(), signal.SIGUSR1)


def hang():
    time.sleep(18)


def break_down():
    raise ValueError("frame 7.jpg is cut off")


def run_until(session, config, happens):
    """Returns: how `train` ended."""

    def build(config, seed, rank, world_size):
        return Interrupting(happens, config, rank, world_size), CLASSES

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "build_train_loader", build)
        patch.setattr(trainer, "plot_losses", lambda log_path, png_path: None)
        try:
            trainer.train(config, **session)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "ended"


@pytest.mark.parametrize("happens", [be_asked_to_stop, be_asked_by_the_scheduler])
def test_signal_saves_and_ends_cleanly_and_the_run_goes_on(tmp_path, happens):
    whole = tiny_config(tmp_path / "whole", max_steps=4)
    train_here(whole)
    part = replace(whole, output=tmp_path / "part")
    assert run_until({}, part, happens) == "ended"
    assert losses(part.output) == losses(whole.output)[:1]
    assert not (part.output / "model.safetensors").exists()
    train_here(override(part, resume=True))
    assert losses(part.output) == losses(whole.output)


@pytest.mark.distributed
def test_signal_to_one_process_stops_and_saves_all(lasting_processes, tmp_path):
    config = six_clips(tmp_path / "run", parallel="fsdp")
    config = replace(config, max_steps=4)
    assert lasting_processes.run_alone(2, run_until, config, be_asked_to_stop) == ["ended", "ended"]
    saved = complete_checkpoints(config.output)
    assert [read_run(path)["step"] for path in saved] == [1]


@pytest.mark.distributed
@pytest.mark.parametrize(
    "happens,minutes,reason", [(hang, 0.2, "did not answer in time"), (break_down, 8.0, "ended")]
)
def test_lost_process_ends_the_others_with_a_sentence(
    lasting_processes, tmp_path, happens, minutes, reason
):
    config = override(six_clips(tmp_path / "run"), checkpoint_every=1, timeout_minutes=minutes)
    kept, lost = lasting_processes.run_alone(2, run_until, config, happens)
    assert kept.startswith(f"LostProcessError: another process of this run {reason}")
    assert "checkpoint of step 1 is complete; continue with --resume" in kept
    assert "DataError: step 2: frame 7.jpg is cut off" in lost or happens is hang
    assert len(complete_checkpoints(config.output)) == 1
