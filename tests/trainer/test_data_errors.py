"""A file that breaks in the middle of a run: one sentence, and nothing learned is lost."""

import os
import signal
from dataclasses import replace

import pytest
from torch.utils.data import get_worker_info

from seqformer.cli.train import main as run
from seqformer.config import AugmentConfig, DataConfig
from seqformer.data.synthetic import make_synthetic_dataset
from seqformer.trainer import trainer
from seqformer.trainer.checkpoint_folders import complete_checkpoints, read_run
from seqformer.trainer.errors import DataError
from seqformer.trainer.trainer import train
from tests.trainer.tiny import tiny_config


@pytest.fixture
def config(tmp_path):
    paths = make_synthetic_dataset(
        tmp_path / "data", num_train=3, num_val=1, num_frames=5, height=32, width=48, seed=0
    )
    data = DataConfig(
        train_images=paths.train_images,
        train_annotations=paths.train_annotations,
        num_frames=2,
        batch_size=2,
        num_workers=0,
        augment=AugmentConfig(short_sides=(32,), crop_prob=0.0, photometric=False),
    )
    return replace(tiny_config(tmp_path / "run"), data=data, max_steps=100)


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_frame_is_named_and_the_steps_so_far_are_saved(config, workers):
    config = replace(config, data=replace(config.data, num_workers=workers))
    frames = sorted(config.data.train_images.rglob("*.jpg"))
    for frame in frames[-7:]:  # not the first of a video, which is looked at when the run begins
        if frame.name != "00000.jpg":
            frame.write_bytes(frame.read_bytes()[:300])
    with pytest.raises(DataError) as caught:
        train(config)
    message = str(caught.value)
    assert ".jpg" in message and "\n" not in message and "Traceback" not in message
    saved = complete_checkpoints(config.output)
    if saved:  # unless the very first batch was hit
        step = read_run(saved[-1])["step"]
        assert f"holds step {step}" in message and "--resume" in message


def test_command_ends_with_the_sentence(tmp_path, capsys):
    words = ["mini", "--output", str(tmp_path / "run"), "--data.train-images", str(tmp_path)]
    assert run(words) == 1
    assert "does not exist" in capsys.readouterr().err


class _Deadly:
    """An augmentation setting whose reading kills a decoding process, as lack of memory does."""

    def __getattr__(self, name):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise AttributeError(name)


def test_killed_decoding_process_is_said(config, monkeypatch):
    config = replace(config, data=replace(config.data, num_workers=1))
    build = trainer.build_train_loader

    def build_deadly(*arguments, **options):
        loader, classes = build(*arguments, **options)
        loader.collate_fn = lambda samples: _Deadly().x
        return loader, classes

    monkeypatch.setattr(trainer, "build_train_loader", build_deadly)
    with pytest.raises(DataError, match=r"a decoding process ended .*lower --data\.num-workers"):
        train(config)
