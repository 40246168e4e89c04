"""Training and validation on a drawn data set, with the real loader and predictor."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seqformer.config import AugmentConfig, DataConfig, EvalConfig, TrainConfig, override
from seqformer.data.synthetic import SyntheticPaths, make_synthetic_dataset
from seqformer.inference import Predictor
from seqformer.model import load_checkpoint
from seqformer.trainer.checkpoint_folders import complete_checkpoints, step_of
from seqformer.trainer.errors import SetupError
from seqformer.trainer.run_log import read_log, read_training_lines
from seqformer.trainer.trainer import train
from tests.trainer.tiny import tiny_config


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> SyntheticPaths:
    root = tmp_path_factory.mktemp("drawn") / "data"
    return make_synthetic_dataset(
        root, num_train=2, num_val=2, num_frames=3, height=32, width=64, seed=0
    )


def config_for(paths: SyntheticPaths, output: Path, **changes) -> TrainConfig:
    """Two videos of three frames in batches of two: three steps per epoch."""
    data = DataConfig(
        train_images=paths.train_images,
        train_annotations=paths.train_annotations,
        val_images=paths.val_images,
        val_annotations=paths.val_annotations,
        num_frames=2,
        batch_size=2,
        num_workers=0,
        augment=AugmentConfig(short_sides=(32,), max_long_side=64, crop_prob=0.0),
    )
    return tiny_config(output, data=data, eval=EvalConfig(short_side=32), **changes)


def without_validation(config: TrainConfig) -> TrainConfig:
    data = replace(config.data, val_images=None, val_annotations=None)
    return replace(config, data=data)


def losses(folder: Path) -> list[float]:
    return [r["loss"] for r in read_training_lines(folder / "log.jsonl")]


def test_validation_scores_and_leaves_training_alone(drawn, tmp_path, capsys):
    config = config_for(drawn, tmp_path / "validated", max_steps=5, eval_every_epochs=1)
    metrics = train(config)
    records = [json.loads(line) for line in (config.output / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "validation" in r] == [3, 5]
    assert json.loads((config.output / "metrics.json").read_text()) == metrics
    assert {"AP", "AP50", "per_class", "step", "seed", "train_seconds", "config"} <= metrics.keys()
    results = json.loads((config.output / "results.json").read_text())
    videos = json.loads(drawn.val_annotations.read_text())["videos"]
    assert {entry["video_id"] for entry in results} <= {video["id"] for video in videos}

    plain = without_validation(replace(config, output=tmp_path / "plain"))
    assert train(plain) == {}
    assert losses(plain.output) == losses(config.output)


def test_resuming_with_the_real_loader_and_workers_changes_nothing(drawn, tmp_path):
    whole = without_validation(config_for(drawn, tmp_path / "whole", max_steps=5))
    train(whole)
    part = replace(whole, output=tmp_path / "part")
    train(replace(part, max_steps=2))
    with_worker = replace(part.data, num_workers=1, cache_frames=True)
    train(override(part, data=with_worker, resume=True))
    assert losses(part.output) == losses(whole.output)


def test_wrong_validation_folder_is_said_before_training(drawn, tmp_path):
    config = config_for(drawn, tmp_path / "run")
    elsewhere = replace(config.data, val_images=tmp_path)
    with pytest.raises(SetupError, match=r"validation frame .* does not exist; --data.val-images"):
        train(replace(config, data=elsewhere))
    assert not (tmp_path / "run/log.jsonl").exists()


def test_validation_set_without_instances_gives_results_but_no_ap(drawn, tmp_path):
    content = json.loads(drawn.val_annotations.read_text())
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps({k: content[k] for k in ("videos", "categories")}))
    config = config_for(drawn, tmp_path / "run", max_steps=1)
    assert train(replace(config, data=replace(config.data, val_annotations=bare))) == {}
    assert (tmp_path / "run/results.json").exists()
    assert not (tmp_path / "run/metrics.json").exists()


@pytest.mark.distributed
def test_sharded_processes_validate_their_shares_and_keep_the_best(
    lasting_processes, drawn, tmp_path
):
    """Three videos for two processes, so that one predicts more often than the other."""
    content = json.loads(drawn.val_annotations.read_text())
    first = content["videos"][0]
    content["videos"].append(first | {"id": 99})
    content["annotations"] += [
        a | {"id": 1000 + a["id"], "video_id": 99}
        for a in content["annotations"]
        if a["video_id"] == first["id"]
    ]
    three = tmp_path / "three.json"
    three.write_text(json.dumps(content))
    config = config_for(drawn, tmp_path / "run", max_steps=4, eval_every_epochs=1, parallel="fsdp")
    data = replace(config.data, val_annotations=three, batch_size=1, global_batch_size=2)
    config = override(config, data=data, keep_checkpoints=1)
    lasting_processes.run_alone(2, train_in_session, config)
    records = [json.loads(line) for line in (config.output / "log.jsonl").read_text().splitlines()]
    scores = {r["step"]: r["validation"]["AP"] for r in records if "validation" in r}
    assert list(scores) == [3, 4]
    best = json.loads((config.output / "best.json").read_text())
    assert best["ap"] == max(scores.values())
    kept = [step_of(path) for path in complete_checkpoints(config.output)]
    assert kept == sorted({best["step"], 4})
    expected = load_checkpoint(config.output / f"checkpoints/step_{best['step']:08d}").state
    actual = load_checkpoint(config.output / "best.safetensors").state
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def train_in_session(session, config):
    """Returns: what is wrong with the settings."""
    try:
        train(config, **session)
    except SetupError as error:
        return str(error)
    return ""


@pytest.mark.distributed
def test_processes_that_cannot_share_the_batch_are_refused_before_training(
    lasting_processes, drawn, tmp_path
):
    config = config_for(drawn, tmp_path / "run")
    config = replace(config, data=replace(config.data, global_batch_size=3))
    for message in lasting_processes.run_alone(2, train_in_session, config):
        assert "global batch of 3 clips cannot be shared evenly by 2 processes" in message
    assert not (config.output / "log.jsonl").exists()


def test_a_request_to_stop_ends_validation_and_it_is_made_up_for(drawn, tmp_path, monkeypatch):
    """Schedulers wait half a minute; a validation takes longer."""
    whole = config_for(drawn, tmp_path / "whole", max_steps=5, eval_every_epochs=1)
    train(whole)
    sound, asked = Predictor.predict_resized, []

    def predict_resized(self, frames):
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))
        return sound(self, frames)

    monkeypatch.setattr(Predictor, "predict_resized", predict_resized)
    part = replace(whole, output=tmp_path / "part")
    assert train(part) == {}
    assert [path.name for path in complete_checkpoints(part.output)] == ["step_00000003"]
    assert not (part.output / "results.json").exists() and not (part.output / "best.json").exists()
    train(override(part, resume=True))
    for name in ("best.json", "results.json"):
        assert (part.output / name).read_bytes() == (whole.output / name).read_bytes()
    logged = [read_log(config.output / "log.jsonl") for config in (part, whole)]
    validated = [[r for r in records if "validation" in r] for records in logged]
    assert validated[0] == validated[1] and len(validated[0]) == 2
    assert losses(part.output) == losses(whole.output)


def test_a_broken_validation_video_does_not_end_a_run(drawn, tmp_path, caplog):
    images = shutil.copytree(drawn.val_images, tmp_path / "images")
    broken = sorted(images.rglob("*.jpg"))[1]  # the first frame of all is looked at before training
    broken.write_bytes(broken.read_bytes()[:300])
    config = config_for(drawn, tmp_path / "run", max_steps=1)
    metrics = train(replace(config, data=replace(config.data, val_images=images)))
    assert metrics["AP"] >= 0
    said = [r.message for r in caplog.records if "one without results" in r.message]
    assert len(said) == 1 and broken.name in said[0]
    videos = {
        entry["video_id"] for entry in json.loads((tmp_path / "run/results.json").read_text())
    }
    assert len(videos) <= 1
