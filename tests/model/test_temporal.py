"""The temporal softmax in chunks, and the two streams of the model put together from them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqformer import build_model
from seqformer.model import TemporalPool, mask_reference


def chunks(T: int, cuts: list[int]) -> list[slice]:
    bounds = sorted({0, T, *(c % T for c in cuts)})
    return [slice(a, b) for a, b in pairwise(bounds)]


def merged(time_logits, sampled, parts):
    pool = None
    for part in parts:
        new = TemporalPool.of([x[:, part] for x in time_logits], [x[:, part] for x in sampled])
        pool = new if pool is None else pool.merge(new)
    return pool


@settings(max_examples=40, deadline=None)
@given(
    T=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    scale=st.sampled_from([0.1, 5.0, 300.0]),
    seed=st.integers(0, 99),
    backwards=st.booleans(),
)
def test_any_portions_in_any_order_give_the_softmax_and_its_gradients(
    T, cuts, scale, seed, backwards
):
    g = torch.Generator().manual_seed(seed)
    logits = [
        (torch.randn(2, T, 3, 1, generator=g, dtype=torch.float64) * scale).requires_grad_()
        for _ in range(2)
    ]
    sampled = [
        torch.randn(2, T, 3, 4, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2)
    ]
    leaves = [*logits, *sampled]
    direction = torch.randn(2, 2, 3, 4, generator=g, dtype=torch.float64)
    expected = torch.stack(
        [(w.softmax(1) * s).sum(1) for w, s in zip(logits, sampled, strict=True)]
    )
    expected_gradients = torch.autograd.grad((expected * direction).sum(), leaves)

    parts = chunks(T, cuts)
    pooled = merged(logits, sampled, parts[::-1] if backwards else parts).pooled()
    torch.testing.assert_close(pooled, expected, rtol=1e-11, atol=1e-11)
    gradients = torch.autograd.grad((pooled * direction).sum(), leaves)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sums_are_float32_whatever_comes_in(dtype):
    logits, sampled = torch.randn(1, 3, 5, 1).to(dtype), torch.randn(1, 3, 5, 4).to(dtype)
    pool = TemporalPool.of([logits], [sampled])
    assert {pool.maximum.dtype, pool.denominator.dtype, pool.weighted.dtype} == {torch.float32}
    expected = (logits.float().softmax(1) * sampled.float()).sum(1)
    torch.testing.assert_close(pool.pooled()[0], expected)


def test_streams_in_portions_are_the_whole_forward_with_its_gradients():
    torch.manual_seed(0)
    model = build_model(
        "resnet_mini",
        num_classes=3,
        hidden_dim=32,
        num_heads=4,
        num_encoder_layers=1,
        num_decoder_layers=2,
        num_queries=7,
        ffn_dim=64,
        mask_dim=16,
    ).double()
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    images = torch.randn(2, 5, 3, 32, 40, dtype=torch.float64)
    padding = torch.zeros(2, 32, 40, dtype=torch.bool)
    padding[1, :, 30:] = True

    def loss(class_logits, mask_params, boxes, features):
        return (
            class_logits.sin().sum()
            + mask_params.sin().sum()
            + boxes.sin().sum()
            + features.sin().sum()
        )

    whole = model(images, padding)
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = loss(whole.class_logits, whole.mask_params, whole.boxes, whole.mask_features)
    expected = torch.autograd.grad(total, parameters)

    actual = [model.box_stream(images[:, part], padding) for part in chunks(5, [2, 3])]
    pool = TemporalPool.of(actual[0][0].time_logits, actual[0][0].sampled)
    for states, _ in actual[1:]:
        pool = pool.merge(TemporalPool.of(states.time_logits, states.sampled))
    class_logits, mask_params = model.instance_heads(model.instance_stream(pool.pooled()))
    boxes = torch.cat([torch.stack(states.boxes) for states, _ in actual], dim=2)
    features = torch.cat([f for _, f in actual], dim=1)
    for name, part in (
        ("class_logits", class_logits),
        ("mask_params", mask_params),
        ("boxes", boxes),
        ("mask_features", features),
    ):
        torch.testing.assert_close(part, getattr(whole, name), rtol=1e-9, atol=1e-10)
    entered = torch.cat([mask_reference(states.references[-1]) for states, _ in actual], dim=1)
    torch.testing.assert_close(entered, whole.reference_points[-1])
    gradients = torch.autograd.grad(loss(class_logits, mask_params, boxes, features), parameters)
    torch.testing.assert_close(gradients, expected, rtol=1e-7, atol=1e-9)
