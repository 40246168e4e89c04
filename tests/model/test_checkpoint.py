"""Weights files: kinds, strictness, advice, safety."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from seqformer.config import config_to_dict
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
    loaded = model.backbone.state_dict()
    for key, value in other.backbone.state_dict().items():
        if not key.startswith("norm"):
            assert torch.equal(loaded[key], value), key
    with pytest.raises(ValueError, match=f"the file fits backbone {name}"):
        load_backbone_weights(small("resnet101"), tmp_path / "imagenet.pth")


def own_sizes():
    return build_model("resnet_mini", num_classes=4, **{**SMALL, "num_heads": 4})


@pytest.mark.parametrize(
    "write",
    [
        lambda model: model.state_dict(),
        lambda model: {f"module.{k}": v for k, v in model.state_dict().items()},
        lambda model: torch.compile(model).state_dict(),
        lambda model: {"model": {f"_orig_mod.{k}": v for k, v in to_published(model).items()}},
        lambda model: {
            "model": {f"module._orig_mod.{k}": v for k, v in model.state_dict().items()}
        },
        lambda model: {"state_dict": to_published(model), "epoch": 3},
        lambda model: {"ema": {"module": model.state_dict(), "decay": 0.99}},
        lambda model: {"model": {k: v.half() for k, v in model.state_dict().items()}},
        lambda model: {"ema": model.state_dict(), "optimizer": {"state": {}}},
        lambda model: {f"_orig_mod.module.{k}": v for k, v in model.state_dict().items()},
        lambda model: {"model_state_dict": model.state_dict(), "epoch": 3},
        lambda model: {k: v.bfloat16() for k, v in model.state_dict().items()},
    ],
    ids=[
        *("own names", "data parallel", "compiled", "compiled, published", "both", "state_dict"),
        *("nested", "float16", "ema", "compiled data parallel", "model_state_dict", "bfloat16"),
    ],
)
def test_state_dicts_of_any_trainer_load(write, tmp_path, request):
    form = request.node.callspec.id
    kept = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(form, torch.float32)
    model = own_sizes()
    torch.save(write(model), tmp_path / "a.pth")
    fresh = own_sizes()
    load_weights(fresh, tmp_path / "a.pth")
    loaded = fresh.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value.to(kept).to(value.dtype)), name


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda v: v.to(torch.int8), r"\d+ no real numbers \(.* of int8"),
        (lambda v: v.bool(), r"\d+ no real numbers \(.* of bool"),
        (lambda v: v.to(torch.complex64), "holds complex numbers"),
    ],
)
def test_weights_of_another_kind_of_number_are_refused(change, words, tmp_path):
    state = {k: change(v) for k, v in own_sizes().state_dict().items() if v.is_floating_point()}
    torch.save(own_sizes().state_dict() | state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=words):
        load_weights(own_sizes(), tmp_path / "a.pth")


def test_a_model_that_was_saved_whole_is_refused_with_the_remedy(tmp_path):
    torch.save(own_sizes(), tmp_path / "a.pth")
    words = r"not executed \(seqformer\.\S+; of a model that was saved whole, save its state_dict"
    with pytest.raises(ValueError, match=words) as error:
        load_weights(own_sizes(), tmp_path / "a.pth")
    assert "weights_only" not in str(error.value)  # no advice to execute it


@pytest.mark.parametrize("data", [b"\x80\x02junk", b"\x80\x02K", b"\x80\x02X\xff", b"(dp0\n"])
def test_a_pickle_that_ends_early_is_refused(data, tmp_path):
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.pth (holds objects|is not a readable)"):
        load_checkpoint(tmp_path / "a.pth")


def test_of_two_state_dicts_one_is_taken_and_that_is_said(tmp_path, caplog):
    model = own_sizes()
    torch.save({"ema": {"a": torch.ones(1)}, "model": model.state_dict()}, tmp_path / "two.pth")
    load_weights(own_sizes(), tmp_path / "two.pth")
    assert "those under 'model' are taken" in caplog.text


def test_a_number_of_heads_is_not_guessed(tmp_path, caplog):
    """4 heads of 4 points have the shapes of 8 heads of 2."""
    model = own_sizes()
    torch.save(model.state_dict(), tmp_path / "own.pth")
    with pytest.raises(ValueError, match="does not tell its number of attention heads"):
        model_from_checkpoint(tmp_path / "own.pth")
    told = {"model": model.state_dict(), "args": argparse.Namespace(nheads=4)}
    torch.save(told, tmp_path / "told.pth")
    assert model_from_checkpoint(tmp_path / "told.pth")[0].config == model.config
    with pytest.raises(ValueError, match="4 heads and 4 points, the model 2 and 8"):
        other = build_model("resnet_mini", 4, **{**SMALL, "num_heads": 2, "num_points": 8})
        load_weights(other, tmp_path / "told.pth")
    torch.save(small().state_dict(), tmp_path / "eight.pth")
    model_from_checkpoint(tmp_path / "eight.pth")
    assert "the published 8, with 4 points, are assumed" in caplog.text


def test_a_weight_larger_than_its_numbers_is_refused(tmp_path):
    wide = torch.zeros(1).as_strided((2**20, 2**25), (0, 0))  # 128 TiB of float32
    torch.save({"model": {"detr.query_embed.weight": wide}}, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match="the file holds fewer numbers"):
        load_checkpoint(tmp_path / "wide.pth")


def test_settings_that_do_not_fit_the_weights_are_refused_before_anything_is_built(tmp_path):
    classes = ClassMap((1, 2, 3, 4), ("a", "b", "c", "d"))
    save_safetensors(tmp_path / "a.safetensors", small(), classes)
    checkpoint = load_checkpoint(tmp_path / "a.safetensors")
    config = config_to_dict(small().config)
    for name, value, words in (
        ("num_encoder_layers", 10**9, "num_encoder_layers 1000000000"),
        ("hidden_dim", 2**20, "hidden_dim 1048576"),
        ("num_classes", 10**12, "num_classes"),
        ("num_heads", "8", "num_heads is '8'"),
        ("dropout", float("nan"), "dropout is nan"),
        ("backbone", ["resnet50"], "backbone"),
    ):
        torch.save(
            {"model": checkpoint.state, "model_config": {**config, name: value}},
            tmp_path / "b.pth",
        )
        with pytest.raises(ValueError, match=words):
            model_from_checkpoint(tmp_path / "b.pth")
    state = dict(checkpoint.state)
    state["detr.query_embed.weight"] = torch.zeros(1, 2**21)  # a model of 2**40 numbers and more
    torch.save({"model": state}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="does not hold a whole model"):
        model_from_checkpoint(tmp_path / "c.pth")


def test_a_compressed_file_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    torch.save({"model": {"a": torch.zeros(2**20)}}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    monkeypatch.setenv("SEQFORMER_MAX_UNPACKED_MIB", "2")
    with pytest.raises(ValueError, match=r"would unpack to 4 MiB.*SEQFORMER_MAX_UNPACKED_MIB"):
        load_checkpoint(tmp_path / "bomb.pth")
    monkeypatch.setenv("SEQFORMER_MAX_UNPACKED_MIB", "8")
    assert load_checkpoint(tmp_path / "bomb.pth").state["a"].numel() == 2**20


def test_entries_that_lie_on_one_another_count_as_many_times_as_they_are_listed(
    tmp_path, monkeypatch
):
    torch.save({"model": {"a": torch.zeros(2**18)}}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth", "a") as archive:
        (tensor,) = (entry for entry in archive.filelist if entry.filename.endswith("data/0"))
        for number in range(1, 5):
            again = copy.copy(tensor)
            again.filename = f"{tensor.filename[:-1]}{number}"
            archive.filelist.append(again)
        archive._didModify = True
    monkeypatch.setenv("SEQFORMER_MAX_UNPACKED_MIB", "2")
    with pytest.raises(ValueError, match="would unpack to 5 MiB"):
        load_checkpoint(tmp_path / "a.pth")


def test_equal_content_gives_equal_bytes(tmp_path):
    """The order of metadata differed from process to process."""
    code = (
        "import sys, torch\n"
        "from seqformer.model.weight_files import safetensors_bytes\n"
        "metadata = {name: name for name in 'model_config classes args a b c d e f'.split()}\n"
        "tensors = {name: torch.ones(3) for name in ('y', 'x')}\n"
        "sys.stdout.buffer.write(safetensors_bytes(tensors, metadata))\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    (tmp_path / "a.safetensors").write_bytes(runs[0])
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["x", "y"] and file.metadata()["classes"] == "classes"
        assert torch.equal(file.get_tensor("x"), torch.ones(3))
