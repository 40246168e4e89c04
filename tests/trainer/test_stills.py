"""Training and validation on single pictures in COCO layout, with the real loader and predictor."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from seqformer.config import AugmentConfig, DataConfig, EvalConfig, TrainConfig
from seqformer.data.synthetic_stills import StillsPaths, make_synthetic_stills
from seqformer.model import load_checkpoint
from seqformer.trainer.errors import SetupError
from seqformer.trainer.trainer import train
from tests.trainer.tiny import tiny_config


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> StillsPaths:
    root = tmp_path_factory.mktemp("drawn") / "coco"
    return make_synthetic_stills(root, num_train=4, num_val=2, height=32, width=64, seed=0)


def config_for(paths: StillsPaths, output: Path, **changes) -> TrainConfig:
    data = DataConfig(
        layout="stills",
        train_images=paths.train_images,
        train_annotations=paths.train_annotations,
        val_images=paths.val_images,
        val_annotations=paths.val_annotations,
        annotation_cache=None,
        num_frames=1,
        batch_size=2,
        num_workers=0,
        augment=AugmentConfig(short_sides=(32,), max_long_side=64, crop_prob=0.0),
    )
    size = EvalConfig(short_side=32, max_long_side=48, min_score=0.0)
    return tiny_config(output, data=data, eval=size, **changes)


def test_a_run_on_pictures_is_scored_as_coco_scores(drawn, tmp_path, capsys):
    config = config_for(drawn, tmp_path / "run", max_steps=3)
    metrics = train(config)
    assert json.loads((config.output / "metrics.json").read_text()) == metrics
    assert {"AP", "AP50", "ARl", "box_AP", "box_AR100", "per_class"} <= set(metrics)
    results = json.loads((config.output / "results.json").read_text())
    assert results and {entry["image_id"] for entry in results} <= {1, 2}
    assert all(entry["segmentation"]["size"] == [32, 64] for entry in results)
    saved = load_checkpoint(config.output / "model.safetensors")
    assert saved.classes.names == ("disc", "triangle", "star", "cross", "ring")
    assert saved.extra["args"]["eval"]["max_long_side"] == 48


def test_training_is_validated_in_its_own_classes(drawn, tmp_path):
    config = config_for(drawn, tmp_path / "run")
    content = json.loads(drawn.val_annotations.read_text())
    for category in content["categories"]:
        category["name"] = "other " + category["name"]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    data = replace(config.data, val_annotations=other)
    with pytest.raises(SetupError, match=r"other\.json has no category .* same edition"):
        train(replace(config, data=data))
