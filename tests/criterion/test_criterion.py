"""Losses by hand, matching properties, normalisation, bad targets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer.boxes import cxcywh_to_xyxy, generalized_box_iou, xyxy_to_cxcywh
from seqformer.config import LossConfig
from seqformer.criterion import HungarianMatcher, SetCriterion
from seqformer.criterion.losses import dice, sigmoid_focal
from seqformer.criterion.targets import BatchTargets
from seqformer.structures import ClipOutput

D, Q, K, T, H, W = 3, 6, 4, 2, 32, 48


def make_output(B=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return ClipOutput(
        class_logits=torch.randn(D, B, Q, K, generator=g).requires_grad_(),
        boxes=(torch.rand(D, B, T, Q, 4, generator=g) * 0.4 + 0.3).requires_grad_(),
        mask_params=(torch.randn(D, B, Q, 169, generator=g) * 0.1).requires_grad_(),
        reference_points=torch.rand(D, B, T, Q, 2, generator=g).requires_grad_(),
        mask_features=torch.rand(B, T, 8, H // 8, W // 8, generator=g).requires_grad_(),
        mask_stride=8,
    )


def make_targets(counts, size=(H, W), seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        {
            "labels": torch.randint(K, (n,), generator=g),
            "boxes": torch.rand(n, T, 4, generator=g) * 0.4 + 0.3,
            "masks": torch.rand(n, T, *size, generator=g) > 0.5,
            "size": size,
        }
        for n in counts
    ]


@given(
    a=st.tuples(*[st.floats(0, 1)] * 2, *[st.floats(0.01, 1)] * 2),
    b=st.tuples(*[st.floats(0, 1)] * 2, *[st.floats(0.01, 1)] * 2),
)
@settings(deadline=None, max_examples=60)
def test_giou_against_its_definition(a, b):
    a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(a)), a)
    p, q = cxcywh_to_xyxy(a).tolist(), cxcywh_to_xyxy(b).tolist()
    width = max(0.0, min(p[2], q[2]) - max(p[0], q[0]))
    height = max(0.0, min(p[3], q[3]) - max(p[1], q[1]))
    union = float(a[2] * a[3] + b[2] * b[3]) - width * height
    hull = (max(p[2], q[2]) - min(p[0], q[0])) * (max(p[3], q[3]) - min(p[1], q[1]))
    expected = width * height / union - (hull - union) / hull
    actual = generalized_box_iou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b))
    assert float(actual) == pytest.approx(expected, abs=1e-12)


def test_focal_and_dice_by_hand():
    logit = math.log(3)  # probability 3/4
    logits, targets = torch.tensor([logit, logit]), torch.tensor([1.0, 0.0])
    positive, negative = sigmoid_focal(logits, targets, alpha=0.25, gamma=2.0).tolist()
    assert positive == pytest.approx(0.25 * 0.25**2 * -math.log(0.75), rel=1e-5)
    assert negative == pytest.approx(0.75 * 0.75**2 * -math.log(0.25), rel=1e-5)
    # probabilities 3/4 and 3/4, of which the first is on target
    value = float(dice(torch.tensor(0.75), torch.tensor(1.5), torch.tensor(1.0)))
    assert value == pytest.approx(1 - (2 * 0.75 + 1) / (1.5 + 1 + 1), rel=1e-6)


def test_losses_are_sums_over_instances_divided_by_the_normaliser():
    output, targets = make_output(), make_targets((2, 3))
    criterion = SetCriterion()
    by_count = criterion(output, targets)
    explicit = criterion(output, targets, torch.tensor(5.0))
    doubled = criterion(output, targets, torch.tensor(10.0))
    for name in (n for n in by_count if n.startswith("loss_")):
        torch.testing.assert_close(by_count[name], explicit[name])
        torch.testing.assert_close(doubled[name] * 2, explicit[name])


def test_total_is_the_weighted_sum_of_all_layers():
    criterion = SetCriterion(LossConfig(class_weight=1, box_weight=10, dice_weight=0))
    losses = criterion(make_output(), make_targets((2, 1)))
    weights = {"loss_ce": 1, "loss_bbox": 10, "loss_giou": 2, "loss_mask": 2, "loss_dice": 0}
    expected = sum(losses[n + s] * w for n, w in weights.items() for s in ("", "_0", "_1"))
    torch.testing.assert_close(criterion.weighted_sum(losses), expected)


def test_matching_does_not_depend_on_the_order_of_targets():
    output, targets = make_output(B=1), make_targets((4,))
    order = torch.tensor([2, 0, 3, 1])
    shuffled = [{k: v[order] if isinstance(v, torch.Tensor) else v for k, v in targets[0].items()}]
    criterion = SetCriterion()
    plain, other = criterion(output, targets), criterion(output, shuffled)
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value)


def test_matches_are_one_to_one_and_sorted_by_query():
    output, targets = make_output(), make_targets((5, 2))
    matches = HungarianMatcher(LossConfig())(output.class_logits, output.boxes, targets)
    assert len(matches.query) == D * 7
    for clips in matches.host_indices:
        for (query, target), n in zip(clips, (5, 2), strict=True):
            assert sorted(target) == list(range(n))
            assert list(query) == sorted(set(query))


def test_more_instances_than_queries_are_matched_as_far_as_queries_go():
    losses = SetCriterion()(make_output(B=1), make_targets((Q + 3,)))
    assert all(torch.isfinite(v) for v in losses.values())


def test_no_instance_anywhere_gives_gradients_and_no_nan():
    output = make_output()
    criterion = SetCriterion()
    losses = criterion(output, make_targets((0, 0)))
    total = criterion.weighted_sum(losses)
    total.backward()
    assert torch.isfinite(total)
    leaves = ("class_logits", "boxes", "mask_params", "reference_points", "mask_features")
    assert all(getattr(output, name).grad is not None for name in leaves)


def test_masks_of_a_smaller_clip_count_as_background_in_the_padding():
    output = make_output(B=1)
    small = make_targets((2,), size=(17, 23))
    padded = [dict(small[0], masks=torch.zeros(2, T, H, W, dtype=torch.bool))]
    padded[0]["masks"][..., :17, :23] = small[0]["masks"]
    criterion = SetCriterion()
    matches = criterion.matcher(output.class_logits, output.boxes, small)
    # same size for the coordinates, so that only the targets' extent differs
    padded[0]["size"] = small[0]["size"]
    a = criterion._mask_losses(output, BatchTargets.of(output, small), matches)
    b = criterion._mask_losses(output, BatchTargets.of(output, padded), matches)
    for name in a:
        torch.testing.assert_close(a[name], b[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.zeros(2, T + 1, 4)}, r"boxes of clip 0 must be \[N, T, 4\] = \[2, 2, 4\]"),
        ({"masks": torch.zeros(2, T, 8, 8, dtype=torch.bool)}, "masks of clip 0 must be"),
        ({"labels": torch.tensor([0, K])}, "labels of clip 0 must be in 0..3"),
        (
            {"size": (64, 48), "masks": torch.zeros(2, T, 64, 48, dtype=torch.bool)},
            r"clip 0 has size \(64, 48\) but the images",
        ),
        ({"boxes": torch.full((2, T, 4), math.nan)}, "matching costs are not finite"),
    ],
)
def test_bad_targets_are_named(change, message):
    targets = [make_targets((2,))[0] | change]
    with pytest.raises(ValueError, match=message):
        SetCriterion()(make_output(B=1), targets)


def test_number_of_targets_must_fit_the_batch():
    with pytest.raises(ValueError, match="1 targets for a batch of 2 clips"):
        SetCriterion()(make_output(B=2), make_targets((1,)))
