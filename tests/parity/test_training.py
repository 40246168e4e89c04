"""One published training step from golden files: matching, every loss, every gradient norm."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from seqformer.config import LossConfig
from seqformer.criterion import HungarianMatcher, SetCriterion
from seqformer.model import Checkpoint, build_model, load_weights, published_name, render_masks
from tests.parity.test_inference import normalise
from tests.parity.weights import DATA, rule_state_dict


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "parity" / "train_r50_b2.npz")


@pytest.fixture(scope="module")
def step(golden):
    """Run the step once: model, output, criterion, losses, gradients."""
    meta = json.loads(str(golden["meta"]))
    H, W = meta["padded_size"]
    T, B = meta["T"], meta["B"]
    images = torch.zeros(B, T, 3, H, W)
    padding_mask = torch.ones(B, H, W, dtype=torch.bool)
    targets = []
    for b, (h, w) in enumerate(meta["sizes"]):
        images[b, :, :, :h, :w] = normalise(golden[f"frames_{b}"])
        padding_mask[b, :h, :w] = False
        labels = torch.from_numpy(golden[f"labels_{b}"])
        n = len(labels)
        bits = np.unpackbits(golden[f"masks_{b}_packed"], count=n * T * h * w)
        targets.append(
            {
                "labels": labels,
                "boxes": torch.from_numpy(golden[f"boxes_{b}"]).view(n, T, 4),
                "masks": torch.from_numpy(bits.astype(bool)).view(n, T, h, w),
                "size": (h, w),
            }
        )
    model = build_model("resnet50")
    state = rule_state_dict("r50", 0)
    load_weights(model, Checkpoint("rule", state, 42, None, None))
    model.train()
    criterion = SetCriterion()
    output = model(images, padding_mask)
    losses = criterion(output, targets)
    total = criterion.weighted_sum(losses)
    total.backward()
    return model, output, targets, criterion, losses, total


def test_matched_indices_are_identical(golden, step):
    _, output, targets, criterion, _, _ = step
    matches = criterion.matcher(output.class_logits, output.boxes, targets)
    for layer, clips in enumerate(matches.host_indices):
        for clip, (query, target) in enumerate(clips):
            expected = golden[f"match_layer{layer}_clip{clip}"]
            np.testing.assert_array_equal(np.stack([query, target]), expected)


def test_every_loss(golden, step):
    _, _, _, _, losses, total = step
    expected = dict(zip(golden["loss_names"].tolist(), golden["loss_values"], strict=True))
    assert set(losses) == set(expected)
    for name, value in expected.items():
        actual = float(losses[name].detach())
        if name.startswith(("loss_mask", "loss_dice")):
            assert abs(actual - value) <= 2e-3, name
        else:
            assert abs(actual - value) <= 1e-4 * max(abs(value), 1e-6), name
    assert abs(float(total.detach()) - float(golden["total_loss"])) <= 1e-2


def test_every_gradient_norm(golden, step):
    model = step[0]
    gradients = {published_name(n): p.grad for n, p in model.named_parameters()}
    compared = 0
    for name, expected in zip(golden["grad_names"].tolist(), golden["grad_norms"], strict=True):
        gradient = gradients[name]
        if math.isnan(expected):
            assert gradient is None, name
            continue
        actual = float(gradient.norm())
        if name.endswith("time_attention_weights.bias"):
            assert abs(actual) <= 1e-4  # zero in exact arithmetic: softmax ignores a shift
        else:
            assert abs(actual - expected) <= 1e-2 * expected, (name, actual, expected)
        compared += 1
    assert compared == 474 - 12


def test_full_gradients(golden, step):
    gradients = {published_name(n): p.grad for n, p in step[0].named_parameters()}
    for key in (k for k in golden.files if k.startswith("grad:")):
        name = key.removeprefix("grad:")
        gradient = gradients[name.removesuffix("[:4]")]
        gradient = gradient[:4] if name.endswith("[:4]") else gradient
        expected = torch.from_numpy(golden[key])
        assert (gradient - expected).norm() <= 2e-2 * expected.norm(), name


def test_predictions_and_matched_masks(golden, step):
    _, output, targets, criterion, _, _ = step
    torch.testing.assert_close(
        output.class_logits[-1], torch.from_numpy(golden["pred_logits"]), rtol=0, atol=2e-4
    )
    torch.testing.assert_close(
        output.boxes[-1], torch.from_numpy(golden["pred_boxes"]), rtol=0, atol=5e-5
    )
    matches = criterion.matcher(output.class_logits, output.boxes, targets)
    for clip, target in enumerate(targets):
        query = torch.from_numpy(matches.host_indices[-1][clip][0])
        h, w = target["size"]
        px = output.reference_points[-1, clip][:, query] * torch.tensor([w, h])
        masks = render_masks(
            output.mask_features[clip, None],
            output.mask_params[-1, clip, query],
            px.transpose(0, 1),
            torch.zeros(len(query), dtype=torch.long),
            output.mask_stride,
        )
        # The position code of padded cells is noise in float32 unless bit-identical; ours is.
        expected = torch.from_numpy(golden[f"pred_masks_clip{clip}"])
        torch.testing.assert_close(masks, expected, rtol=0, atol=1e-2)


def test_matcher_case():
    case = np.load(DATA / "parity" / "matcher_case.npz")
    matcher = HungarianMatcher(LossConfig())
    logits = torch.from_numpy(case["pred_logits"])[None]
    boxes = torch.from_numpy(case["pred_boxes"])[None]
    targets = [
        {
            "labels": torch.from_numpy(case[f"labels_{b}"]),
            "boxes": torch.from_numpy(case[f"boxes_{b}"]).view(-1, 5, 4),
        }
        for b in range(2)
    ]
    matches = matcher(logits, boxes, targets)
    for b, target in enumerate(targets):
        cost = matcher.cost(
            logits[:, b, None], boxes[:, b, None], target["labels"], target["boxes"]
        )
        np.testing.assert_allclose(cost[0, 0].numpy(), case[f"cost_{b}"], rtol=0, atol=5e-5)
        np.testing.assert_array_equal(np.stack(matches.host_indices[0][b]), case[f"match_{b}"])
    # parity: Euclidean distance over all frames, not L1
    euclid = (
        boxes[0, 0].transpose(0, 1).flatten(1)[:, None] - targets[0]["boxes"].flatten(1)
    ).norm(dim=-1)
    box_only = HungarianMatcher(LossConfig(cost_class=0, cost_giou=0, cost_box=1))
    cost = box_only.cost(logits[:, 0, None], boxes[:, 0, None], *targets[0].values())
    torch.testing.assert_close(cost[0, 0], euclid)
