"""What a new run begins with: trained weights, or random ones by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqformer.config import ModelConfig, StartConfig, TrainConfig, override, presets
from seqformer.distributed.context import distributed_context
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
