"""Whole-model cases: declared at no cost, the same work on all sides, nothing left behind."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bench.baselines import original
from bench.suite import model_cost, model_inputs
from bench.suite.cases import growth, inference, training
from bench.suite.memory import peak_growth_in_fresh_process
from bench.suite.model_inputs import TINY, ModelSize, model_of
from bench.suite.schema import check_agreement

CPU = torch.device("cpu")
MODULES = (training, inference, growth)
ONE_LAYER = (("num_encoder_layers", 1), ("num_decoder_layers", 1))


@pytest.fixture
def no_models(monkeypatch):
    """Building a model fails."""

    def refuse(*arguments, **named):
        raise AssertionError("a model was built")

    monkeypatch.setattr(model_inputs, "build_model", refuse)
    monkeypatch.setattr(model_cost, "build_model", refuse)


@pytest.mark.parametrize("size", ["smoke", "cpu", "gpu"])
@pytest.mark.parametrize("module", MODULES)
def test_declaring_builds_nothing(module, size, no_models):
    declared = list(module.cases(size))
    assert declared and len({case.name for case in declared}) == len(declared)
    for case in declared:
        assert (case.along is not None) == (case.group == "growth")
        assert case.units in (("clips", case.shapes["B"]), ("frames", case.shapes["T"]))


def test_every_measured_case_is_warmed_up_by_a_smoke_case():
    """The fresh process of a memory measurement first calls the smoke case of the same kind."""
    for module in MODULES:
        small = {(c.op, c.direction, c.dtype) for c in module.cases("smoke")}
        assert {(c.op, c.direction, c.dtype) for c in module.cases("cpu")} <= small


def test_a_step_leaves_no_gradients_and_repeats_itself():
    case = training.training_case(TINY)
    for side in case.sides_on(CPU):
        step = side.build(CPU)
        first, second = step(), step()
        assert first["loss"] > 0
        check_agreement(case, {"ours": first, "published": second})
        assert all(p.grad is None for p in model_of(TINY, CPU).parameters())


def test_a_wrong_gradient_is_noticed():
    case = training.training_case(TINY)
    outputs = {side.name: side.build(CPU)() for side in case.sides_on(CPU)}
    assert len(outputs["ours"]) == 3
    outputs["ours"]["query_embed.weight"] = 1.05 * outputs["ours"]["query_embed.weight"]
    with pytest.raises(AssertionError, match="ours differs from published"):
        check_agreement(case, outputs)


def test_the_optimiser_moves_the_weights_of_its_own_copy():
    case = training.training_case(TINY, with_optimizer=True)
    shared = [p.clone() for p in model_of(TINY, CPU).parameters()]
    for side in case.sides_on(CPU):
        step = side.build(CPU)
        losses = [float(step()["loss"]) for _ in range(2)]
        assert losses[0] != losses[1], side.name
    for before, now in zip(shared, model_of(TINY, CPU).parameters(), strict=True):
        assert torch.equal(before, now)


def test_costs_grow_with_the_input():
    one = model_cost.training_cost(TINY, "float32")
    two = model_cost.training_cost(replace(TINY, clips=2), "bfloat16")
    assert 1.99 * one.flops < two.flops <= 2 * one.flops and one.bytes < two.bytes < 2 * one.bytes
    assert one.half_flops == 0 and 0.5 * two.flops < two.half_flops < two.flops
    short = model_cost.inference_cost(replace(TINY, frames=4), "float32")
    long = model_cost.inference_cost(replace(TINY, frames=8), "float32")
    assert 1.5 < long.flops / short.flops < 2
    assert short.flops < model_cost.training_cost(replace(TINY, frames=4), "float32").flops / 2


def test_flops_are_those_of_the_layers():
    """ResNet-101 has 17 blocks more than ResNet-50, at stride 16."""
    small, large = (
        model_cost.inference_cost(
            ModelSize(backbone=name, frames=1, height=224, width=224, overrides=ONE_LAYER),
            "float32",
        )
        for name in ("resnet50", "resnet101")
    )
    block = 2 * 1024 * 256 + 9 * 256 * 256
    assert large.flops - small.flops == 2 * 17 * 14 * 14 * block


def test_swin_is_counted_too():
    size = ModelSize(backbone="swin_t", frames=1, height=64, width=64, overrides=ONE_LAYER)
    assert model_cost.training_cost(size, "bfloat16").half_flops > 1e9


def test_memory_of_a_fresh_process():
    case = next(inference.cases("smoke"))
    growth_bytes = peak_growth_in_fresh_process(
        ["bench.suite.cases.inference"], "smoke", case.name, "ours"
    )
    assert growth_bytes is None or 0 <= growth_bytes < 500 * 2**20


def test_the_public_side_is_there_only_with_its_folder(tmp_path, monkeypatch):
    case = next(training.cases("cpu"))
    monkeypatch.delenv(original.VARIABLE, raising=False)
    assert [s.name for s in case.sides_on(CPU)] == ["ours", "published"]
    monkeypatch.setenv(original.VARIABLE, str(tmp_path))
    assert [s.name for s in case.sides_on(CPU)] == ["ours", "published", "public"]
    with pytest.raises(FileNotFoundError, match="SEQFORMER_PUBLIC must name the folder"):
        original.load(tmp_path)


PUBLIC = """
import torch
from bench.suite.model_inputs import TINY, own_model_of
from bench.baselines.published import published_inference, published_training_losses
from seqformer.criterion import SetCriterion
from seqformer.model import to_published

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = own_model_of(TINY, torch.device("cpu"))
    def load_state_dict(self, state):
        ours = to_published(self.model)
        assert state.keys() == ours.keys()
    def get_parameter(self, name):
        from seqformer.model import published_name
        return next(p for n, p in self.model.named_parameters() if published_name(n) == name)

def build(name, num_classes, num_frames):
    return Model()

def train_step(model, clips, targets):
    n, (t, *_) = len(targets[0]["labels"]), clips[0].shape
    back = [{k: v.unflatten(0, (n, t)) if k in ("boxes", "masks") else v for k, v in x.items()}
            for x in targets]
    back = [{**x, "size": tuple(x["size"].tolist())} for x in back]
    losses = published_training_losses(model.model, torch.stack(clips), None, back)
    return losses, SetCriterion().weighted_sum(losses)

def infer(model, frames, details):
    logits, boxes, masks = published_inference(model.model, frames[None])
    return {"pred_logits": logits[None], "pred_boxes": boxes[None], "pred_masks": masks[None]}
"""


def test_the_public_side_compares_losses_gradients_and_masks(tmp_path, monkeypatch):
    """With a stand-in for the original code, on the tiny model."""
    (tmp_path / "public.py").write_text(PUBLIC)
    monkeypatch.setenv(original.VARIABLE, str(tmp_path))
    for case, build in (
        (training.training_case(TINY), training._public),
        (inference.inference_case(TINY), inference._public),
    ):
        outputs = {side.name: side.build(CPU)() for side in case.sides_on(CPU)}
        outputs["public"] = build(TINY, "float32", CPU)()
        assert len(outputs["public"]) == 3
        check_agreement(case, outputs)


def test_targets_are_of_every_clip():
    size = replace(TINY, clips=3, instances=4)
    padding_mask, targets = model_inputs.padding_and_targets(size, CPU)
    assert padding_mask.shape == (3, 64, 96) and len(targets) == 3
    assert all(t["masks"].shape == (4, 2, 64, 96) and t["masks"].any() for t in targets)
    assert not torch.equal(targets[0]["boxes"], targets[1]["boxes"])
    assert math.prod(model_inputs.video(size, CPU).shape) == 3 * 2 * 3 * 64 * 96
