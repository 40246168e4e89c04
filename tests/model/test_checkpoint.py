"""Weights files: kinds, strictness, advice, safety."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import pytest
import torch

from seqformer.model import (
    build_model,
    load_backbone_weights,
    load_checkpoint,
    load_weights,
    model_from_checkpoint,
    save_safetensors,
    to_published,
)
from seqformer.structures import ClassMap

SMALL = dict(hidden_dim=32, num_heads=8, num_encoder_layers=1, num_decoder_layers=2,
             num_queries=5, ffn_dim=32, mask_dim=16)  # fmt: skip


def small(backbone="resnet_mini", num_classes=4):
    torch.manual_seed(1)
    return build_model(backbone, num_classes=num_classes, **SMALL)


@pytest.fixture
def released(tmp_path) -> Path:
    """A file as the original trainer writes it: namespace, optimiser and scheduler beside it."""
    model = small()
    optimiser = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [4, 10])
    path = tmp_path / "released.pth"
    torch.save(
        {
            "model": to_published(model),
            "optimizer": optimiser.state_dict(),
            "lr_scheduler": schedule.state_dict(),
            "epoch": 11,
            "args": argparse.Namespace(lr=2e-4, lr_drop=[4, 10], output_dir=Path("x")),
        },
        path,
    )
    return path


def test_released_layout_loads_strictly_and_knows_itself(released):
    model, checkpoint = model_from_checkpoint(released)
    assert model.config.backbone == "resnet_mini" and not model.training
    assert checkpoint.num_classes == 4 and checkpoint.classes is None
    assert checkpoint.extra["epoch"] == 11
    for key, value in to_published(small()).items():
        assert torch.equal(value, checkpoint.state[key])
    x = torch.randn(1, 2, 3, 16, 24)
    torch.testing.assert_close(model(x).boxes, small().eval()(x).boxes)


def test_wrong_backbone_and_class_count_say_what_fits(released):
    with pytest.raises(ValueError, match="holds weights of resnet_mini, not of resnet50"):
        model_from_checkpoint(released, backbone="resnet50")
    with pytest.raises(ValueError, match=r"would fit num_classes=4.*drop_class_heads"):
        load_weights(small(num_classes=7), released)
    with pytest.raises(
        ValueError, match=r"missing .* unexpected .* would fit backbone resnet_mini"
    ):
        load_weights(build_model("swin_t", num_classes=4, **SMALL), released)


def test_class_heads_can_be_dropped(released):
    model = small(num_classes=7)
    before = model.class_embed[0].weight.clone()
    model.query_embed.weight.data.zero_()
    load_weights(model, released, drop_class_heads=True)
    assert torch.equal(model.class_embed[0].weight, before)
    assert torch.equal(model.query_embed.weight, small().query_embed.weight)


def test_missing_key_is_listed(released, tmp_path):
    state = torch.load(released, weights_only=False)["model"]
    del state["controller.layers.1.bias"]
    torch.save({"model": state}, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"1 missing \(controller.layers.1.bias\)"):
        load_weights(small(), tmp_path / "cut.pth")


def test_safetensors_keep_classes_and_settings(tmp_path):
    classes = ClassMap((3, 7, 8, 90), ("ant", "bee", "cat", "dog"))
    save_safetensors(tmp_path / "ours.safetensors", small(), classes)
    model, checkpoint = model_from_checkpoint(tmp_path / "ours.safetensors")
    assert checkpoint.classes == classes
    assert model.config == small().config


def test_nothing_in_a_file_is_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"model": {}, "args": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match="it was not executed"):
        load_checkpoint(tmp_path / "bomb.pth")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError):
        load_checkpoint(tmp_path / "bomb.pkl")
    assert not (tmp_path / "executed").exists()


def test_broken_files_are_named(released, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth does not exist"):
        load_checkpoint(tmp_path / "nowhere.pth")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(released.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut.pth is not a readable checkpoint|not executed"):
        load_checkpoint(cut)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10" * 50)
    with pytest.raises(ValueError, match=r"cut.safetensors is not a readable safetensors file"):
        load_checkpoint(tmp_path / "cut.safetensors")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="holds no weights"):
        load_checkpoint(tmp_path / "empty.pth")


def test_nan_weights_are_refused(released, tmp_path):
    state = torch.load(released, weights_only=False)["model"]
    state["detr.query_embed.weight"][0, 0] = float("nan")
    torch.save({"model": state}, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match=r"detr.query_embed.weight holds NaN"):
        load_checkpoint(tmp_path / "nan.pth")


@pytest.mark.parametrize("name", ["resnet50", "swin_t"])
def test_imagenet_backbone_files(name, tmp_path):
    model, other = small(name), small(name)
    for tensor in other.backbone.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.5)
    state = {
        k: v for k, v in other.backbone.state_dict().items() if k.split(".")[0] not in
        ("norm0", "norm1", "norm2", "norm3")
    }  # fmt: skip
    state |= {"fc.weight": torch.zeros(2, 2), "bn1.num_batches_tracked": torch.tensor(3)}
    if name == "swin_t":
        state = {"norm.weight": torch.zeros(768), "head.weight": torch.zeros(2, 2)} | {
            k: v for k, v in state.items() if not k.startswith(("fc", "bn1"))
        }
        state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
        state = {"model": state}
    torch.save(state, tmp_path / "imagenet.pth")
    load_backbone_weights(model, tmp_path / "imagenet.pth")
    for key, value in other.backbone.state_dict().items():
        if not key.startswith("norm"):
            assert torch.equal(model.backbone.state_dict()[key], value), key
    with pytest.raises(ValueError, match=f"the file fits backbone {name}"):
        load_backbone_weights(small("resnet101"), tmp_path / "imagenet.pth")
