"""What a new run begins with: trained weights, or random ones by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seqformer.config import AUTO_WEIGHTS, ModelConfig, StartConfig, TrainConfig, override, presets
from seqformer.distributed.context import DistributedContext, distributed_context
from seqformer.model import build_model
from seqformer.trainer import backbone_start
from seqformer.trainer.backbone_start import start_backbone
from seqformer.trainer.build import build_training, check_start

STILLS = [name for name in presets() if name.endswith("_coco")]
PUBLISHED = [name for name in presets() if name not in ("demo", "mini", *STILLS)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets_need_weights(name):
    config = presets()[name][1]
    with pytest.raises(ValueError, match=r"--weights FILE .* --backbone-weights .* --from-scratch"):
        check_start(config)
    check_start(override(config, backbone_weights=Path("imagenet.pth")))
    check_start(override(config, weights=Path("r50.pth")))
    with pytest.raises(ValueError, match="exclude one another"):
        check_start(override(config, weights=Path("r50.pth"), from_scratch=True))


@pytest.mark.parametrize("name", STILLS)
def test_stages_of_pictures_look_for_imagenet_weights(name):
    config = presets()[name][1]
    check_start(config)
    check_start(override(config, weights=Path("r50.pth")))
    check_start(override(config, from_scratch=True))
    with pytest.raises(ValueError, match=r"--weights FILE .* --backbone-weights .* --from-scratch"):
        check_start(override(config, backbone_weights=None))


def test_small_presets_begin_from_scratch():
    for name in ("demo", "mini"):
        check_start(presets()[name][1])


@pytest.mark.parametrize("from_scratch", [True, False])
def test_from_scratch_trains_every_layer_and_says_what_that_means(from_scratch, caplog):
    sizes = dict(
        hidden_dim=32, num_heads=4, num_encoder_layers=1, num_decoder_layers=1, num_queries=3,
        ffn_dim=16, mask_dim=8, num_classes=2,
    )  # fmt: skip
    config = TrainConfig(model=ModelConfig(**sizes), start=StartConfig(from_scratch=from_scratch))
    with distributed_context("cpu") as parallel:
        made = build_training(config, parallel, is_new=from_scratch)
    trained = {name: p.requires_grad for name, p in made.model.backbone.named_parameters()}
    assert all(trained.values()) == from_scratch
    listed = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
    assert trained == {n: id(p) in listed for n, p in made.model.backbone.named_parameters()}
    assert ("all of it is trained" in caplog.text) == from_scratch


def tiny(backbone):
    sizes = dict(hidden_dim=32, num_heads=4, num_encoder_layers=1, num_decoder_layers=1)
    return build_model(backbone, num_classes=2, num_queries=3, ffn_dim=16, mask_dim=8, **sizes)


def test_auto_takes_what_is_found_and_downloads_only_what_is_not(tmp_path, monkeypatch):
    source, fetched = tiny("resnet50"), []
    torch.save(source.backbone.state_dict(), tmp_path / "imagenet.pth")

    def download(backbone, show_progress):
        fetched.append(backbone)
        return tmp_path / "imagenet.pth"

    monkeypatch.setattr(backbone_start, "download_backbone_weights", download)
    for found in (tmp_path / "imagenet.pth", None):
        monkeypatch.setattr(backbone_start, "find_backbone_weights", lambda _, p=found: p)
        model = tiny("resnet50")
        start_backbone(model, AUTO_WEIGHTS, DistributedContext())
        loaded = model.backbone.state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in source.backbone.state_dict().items())
    assert fetched == ["resnet50"]


def test_auto_leaves_the_small_backbone_alone(monkeypatch):
    monkeypatch.setattr(backbone_start, "find_backbone_weights", None)
    model = tiny("resnet_mini")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for given in (AUTO_WEIGHTS, None):
        start_backbone(model, given, DistributedContext())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
