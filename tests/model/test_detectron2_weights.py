"""Weights of the rewrite on detectron2: names, classes, and pickles of arrays."""

from __future__ import annotations

import os
import pickle
import re

import numpy as np
import pytest
import torch

from seqformer.inference import Predictor
from seqformer.model import (
    build_model,
    load_backbone_weights,
    load_checkpoint,
    load_weights,
    to_published,
)
from seqformer.model.numpy_pickle import read_numpy_pickle

SMALL = dict(hidden_dim=32, num_heads=8, num_encoder_layers=1, num_decoder_layers=2,
             num_queries=5, ffn_dim=32, mask_dim=16)  # fmt: skip


def resnet_name(name: str) -> str:
    """torchvision's name of a layer -> detectron2's, written down from detectron2's side."""
    name = re.sub(r"^conv1\.", "stem.conv1.", name)
    name = re.sub(r"^bn1\.", "stem.conv1.norm.", name)
    name = re.sub(r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}.", name)
    name = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", name)
    return name.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")


def rewritten(model) -> dict[str, torch.Tensor]:
    """A model's state as the rewrite names it."""
    body, named = "detr.backbone.0.body.", {}
    for key, value in to_published(model).items():
        if key.startswith(body):
            rest = key.removeprefix(body)
            rest = rest if model.config.backbone.startswith("swin") else resnet_name(rest)
            key = f"detr.backbone.0.backbone.{rest}"
        named[f"detr.{key}"] = value
    return named


def build(backbone="resnet50", num_classes=40, seed=1):
    torch.manual_seed(seed)
    return build_model(backbone, num_classes=num_classes, **SMALL)


def arrays(state) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in state.items()}


def test_names_are_detectron2s():
    names = set(rewritten(build()))
    prefix = "detr.detr.backbone.0.backbone."
    for name in (
        *("stem.conv1.weight", "stem.conv1.norm.running_mean", "res2.0.shortcut.weight"),
        *("res2.0.shortcut.norm.bias", "res4.5.conv3.norm.weight", "res5.2.conv1.weight"),
    ):
        assert prefix + name in names
    assert {"detr.mask_head.lay1.weight", "detr.detr.class_embed.0.bias"} <= names


@pytest.mark.parametrize("backbone", ["resnet50", "swin_t"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_every_weight_finds_its_place(backbone, wrapped, tmp_path):
    model = build(backbone)
    state = rewritten(model)
    if not wrapped:
        state = {key.removeprefix("detr."): value for key, value in state.items()}
    torch.save({"model": state, "iteration": 11999}, tmp_path / "model_final.pth")
    fresh = build(backbone, seed=2)
    checkpoint = load_weights(fresh, tmp_path / "model_final.pth")
    loaded = fresh.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())
    assert checkpoint.extra["iteration"] == 11999
    assert checkpoint.classes is not None
    assert checkpoint.classes.ids == tuple(range(1, 41))


@pytest.mark.parametrize("num_classes,last", [(40, 40), (25, 25), (80, 90)])
def test_an_output_is_the_category_of_its_number(num_classes, last, tmp_path):
    torch.save({"model": rewritten(build(num_classes=num_classes))}, tmp_path / "a.pth")
    classes = load_checkpoint(tmp_path / "a.pth").classes
    assert classes is not None and classes.ids[0] == 1 and classes.ids[-1] == last
    assert len(classes.ids) == num_classes


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_of_arrays_gives_the_same_model(protocol, tmp_path):
    model = build()
    content = {"model": arrays(rewritten(model)), "__author__": "x", "matching_heuristics": True}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    fresh = build(seed=2)
    load_weights(fresh, tmp_path / "a.pkl")
    loaded = fresh.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())
    predictor = Predictor.from_checkpoint(tmp_path / "a.pkl", device="cpu")
    assert predictor.classes is not None and predictor.classes.ids == tuple(range(1, 41))


def test_box_heads_that_stand_in_the_file_once(tmp_path):
    model = build()
    state = {k: v for k, v in rewritten(model).items() if ".detr.bbox_embed." not in f".{k}"}
    torch.save({"model": state}, tmp_path / "once.pth")
    load_weights(build(seed=2), tmp_path / "once.pth")


def test_a_resnet_of_detectron2_is_a_backbone(tmp_path):
    model, other = build(), build(seed=2)
    state = {resnet_name(k): v.numpy() for k, v in model.backbone.state_dict().items()}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"model": state}))
    load_backbone_weights(other, tmp_path / "R-50.pkl")
    own = other.backbone.state_dict()
    assert all(torch.equal(own[k], v) for k, v in model.backbone.state_dict().items())


def test_kinds_orders_and_numbers_of_arrays(tmp_path):
    content = {
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "big": np.arange(3, dtype=">f4"),
        "half": np.ones((2, 0), np.float16),
        "unsigned": np.array([3, 2**31], np.uint32),
        "zero": np.array(2.5, np.float32),
        "scalar": np.int64(7),
        "list": [np.array([True])],
    }
    for protocol in (2, 4, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        read = read_numpy_pickle(tmp_path / "a.pkl")
        for key in ("fortran", "big", "half", "unsigned", "zero"):
            assert np.array_equal(read[key].numpy(), content[key]), key
            assert read[key].shape == content[key].shape
        assert read["scalar"] == 7 and read["list"][0].item() is True


class Call:
    def __reduce__(self):
        return os.mkdir, ("called",)


def nested(depth: int):
    value: list = [1]
    for _ in range(depth):
        value = [value] * 20
    return value


def too_large() -> bytes:
    data = pickle.dumps({"model": {"a": np.zeros(4, np.float32)}}, protocol=2)
    return data.replace(b"K\x04\x85", b"K\x40\x85")


@pytest.mark.parametrize(
    "data,words",
    [
        (pickle.dumps({"model": {"a": Call()}}), r"not executed \(it names posix\.mkdir"),
        (pickle.dumps({"model": {"a": np.array([Call()], object)}}), "an array of 'O8'"),
        (pickle.dumps({"model": {"a": np.array(["x"], object)}}), "an array of 'O8'"),
        (pickle.dumps({"model": nested(5)}), "nested too deep"),
        (pickle.dumps({"model": nested(20)}), "nested too deep"),
        (too_large(), "another size than it says"),
        (pickle.dumps({"model": {"a": np.zeros(4)}})[:-30], "or is corrupt"),
        (pickle.dumps([1, 2]), "holds a list, not a state dict"),
        (b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.", "may be cut off"),
        (pickle.dumps({"model": {"a": np.array([np.nan])}}), "NaN or infinite"),
    ],
    ids=[
        "call",
        "call in array",
        "objects",
        "wide",
        "deep",
        "large",
        "cut",
        "list",
        "claim",
        "nan",
    ],
)
def test_what_is_no_weight_is_refused_and_not_executed(data, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.pkl.*{words}"):
        load_checkpoint(tmp_path / "a.pkl")
    assert not (tmp_path / "called").exists()


def test_one_buffer_is_not_taken_for_many_arrays(tmp_path):
    shared = np.zeros(1000, np.float32)
    content = {"model": {f"a{i}": shared for i in range(100)}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="lie on one another"):
        load_checkpoint(tmp_path / "a.pkl")


def test_a_torch_file_under_the_name_of_a_pickle(tmp_path):
    model = build("resnet_mini", 4)
    for is_zip in (True, False):
        path = tmp_path / "a.pkl"
        torch.save({"model": to_published(model)}, path, _use_new_zipfile_serialization=is_zip)
        load_weights(build("resnet_mini", 4, seed=2), path)
