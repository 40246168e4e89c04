"""The stage of COCO pictures: its first weights, and one step (T = 1, 91 classes), as published.

`train_r50_stills.npz` holds matches, losses and gradient norms of the published code for the
pictures of `stills.py`; `init_r50_coco.json.gz` mean, deviation and largest value of every tensor
that it draws at the start.
"""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
import torch

from seqformer.config import presets
from seqformer.criterion import SetCriterion
from seqformer.model import (
    Checkpoint,
    build_model,
    build_model_from_config,
    load_weights,
    published_name,
    to_published,
)
from tests.parity.stills import make_stills
from tests.parity.test_inference import normalise
from tests.parity.weights import DATA, read_manifest, rule_tensor

NUM_CLASSES = 91


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "parity" / "train_r50_stills.npz")


@pytest.fixture(scope="module")
def step():
    """Run the step once: model, matches, losses, total."""
    pictures, drawn = make_stills()
    height, width = (-(-max(image.shape[axis] for image in pictures) // 32) * 32 for axis in (0, 1))
    images = torch.zeros(2, 1, 3, height, width)
    padding_mask = torch.ones(2, height, width, dtype=torch.bool)
    targets = []
    for b, (image, target) in enumerate(zip(pictures, drawn, strict=True)):
        h, w = target["size"]
        images[b, 0, :, :h, :w] = normalise(image[None])[0]
        padding_mask[b, :h, :w] = False
        targets.append(
            {
                "labels": torch.from_numpy(target["labels"]),
                "boxes": torch.from_numpy(target["boxes"])[:, None],
                "masks": torch.from_numpy(target["masks"])[:, None],
                "size": (h, w),
            }
        )
    model = build_model("resnet50", num_classes=NUM_CLASSES)
    shapes = {
        key: (NUM_CLASSES, *shape[1:]) if ".class_embed." in key else shape
        for key, shape in read_manifest("r50")
    }
    state = {key: torch.from_numpy(rule_tensor(key, shape, 0)) for key, shape in shapes.items()}
    load_weights(model, Checkpoint("rule", state, NUM_CLASSES, None, None))
    model.train()
    criterion = SetCriterion()
    output = model(images, padding_mask)
    matches = criterion.matcher(output.class_logits, output.boxes, targets).host_indices
    losses = criterion(output, targets)
    total = criterion.weighted_sum(losses)
    total.backward()
    return model, matches, losses, total


def test_matches(golden, step):
    for layer, clips in enumerate(step[1]):
        for clip, (query, target) in enumerate(clips):
            expected = golden[f"match_layer{layer}_clip{clip}"]
            np.testing.assert_array_equal(np.stack([query, target]), expected)


def test_every_loss(golden, step):
    expected = dict(zip(golden["loss_names"].tolist(), golden["loss_values"], strict=True))
    losses = {name: float(value.detach()) for name, value in step[2].items()}
    for name, value in expected.items():
        if name in losses:
            assert abs(losses[name] - value) <= 1e-4 * max(abs(value), 1e-2), name
    assert {name for name in expected if name.startswith("loss")} <= set(losses)
    total = float(golden["total_loss"])
    assert abs(float(step[3].detach()) - total) <= 1e-4 * total


def test_every_gradient_norm(golden, step):
    gradients = {published_name(n): p.grad for n, p in step[0].named_parameters()}
    compared = 0
    for name, expected in zip(golden["grad_names"].tolist(), golden["grad_norms"], strict=True):
        if math.isnan(expected):
            assert gradients.get(name) is None, name
            continue
        actual = float(gradients[name].norm())
        # With one frame the softmax over time is 1 whatever its weights are.
        slack = 1e-5 if ".time_attention_weights." in name else 0.0
        assert abs(actual - expected) <= 1e-2 * expected + slack, (name, actual, expected)
        compared += 1
    assert compared > 450


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(5)
    return build_model_from_config(presets()["r50_coco"][1].model)


def test_first_weights_are_drawn_as_published(fresh):
    state = to_published(fresh)
    with gzip.open(DATA / "parity" / "init_r50_coco.json.gz", "rt") as file:
        published = json.load(file)
    assert {key for key in state if ".backbone." not in key} == set(published)
    for key, (mean, deviation, largest, shape) in published.items():
        own = state[key].double()
        assert list(own.shape) == shape, key
        count = own.numel()
        is_constant = count > 1 and deviation == 0
        if is_constant or "sampling_offsets" in key:
            actual = float(own.mean()), float(own.std(unbiased=False))  # constants, no draws
            assert actual == pytest.approx((mean, deviation), abs=1e-5), key
        elif "bbox_embed" in key and key.endswith("layers.2.bias"):
            assert float(own.mean()) == pytest.approx(mean), key
        elif count >= 64:
            error = 6 / math.sqrt(2 * count)  # of a deviation that is estimated twice
            assert float(own.std(unbiased=False)) == pytest.approx(deviation, rel=error), key
            is_uniform = largest < 1.9 * deviation
            bound = float(own.abs().max())
            assert bound == pytest.approx(largest, rel=0.05 if is_uniform else 0.3), key
        else:
            assert float(own.abs().max()) <= 2 * largest + 1 / 16, key


def test_the_heads_of_all_layers_are_equal_at_the_start(fresh):
    classes = [head.state_dict() for head in fresh.class_embed]
    boxes = [head.state_dict() for head in fresh.decoder.bbox_embed]
    for heads in (classes, boxes):
        for name, first in heads[0].items():
            equal = [torch.equal(first, head[name]) for head in heads[1:]]
            assert all(equal) != (name == "layers.2.bias"), name  # only the first asks for boxes
    assert boxes[0]["layers.2.bias"].tolist() == [0, 0, -2, -2]
    assert not torch.cat([head["layers.2.bias"] for head in boxes[1:]]).any()
    assert len({tensor.data_ptr() for head in classes for tensor in head.values()}) == 12
