"""The model as inference runs it: folded norms, half precision in the right places."""

from __future__ import annotations

import pytest
import torch

from seqformer import build_model
from seqformer.model import inference_copy, to_published

SIZES = dict(
    num_classes=3,
    hidden_dim=32,
    num_heads=4,
    num_encoder_layers=1,
    num_decoder_layers=2,
    num_queries=7,
    ffn_dim=64,
    mask_dim=16,
)


def build(backbone):
    torch.manual_seed(0)
    model = build_model(backbone, **SIZES)
    for name, buffer in model.named_buffers():
        if "running_var" in name or name.endswith(("bn1.weight", "bn2.weight")):
            buffer.uniform_(0.5, 1.5)
        elif "running_mean" in name:
            buffer.normal_(std=0.1)
    return model


def test_folded_norms_give_the_same_results_and_leave_the_model_alone():
    model = build("resnet50").double()
    before = {k: v.clone() for k, v in to_published(model).items()}
    images = torch.randn(1, 2, 3, 40, 56, dtype=torch.float64)
    copy = inference_copy(model)
    assert not any("FrozenBatchNorm2d" in type(m).__name__ for m in copy.modules())
    with torch.inference_mode():
        expected, actual = model.eval()(images), copy(images)
    torch.testing.assert_close(actual.class_logits, expected.class_logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(actual.mask_features, expected.mask_features, rtol=1e-9, atol=1e-9)
    after = to_published(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    shared = {id(p) for p in model.parameters()}
    assert all(id(p) in shared for p in copy.decoder.parameters()), "weights are copied for nothing"


def test_nothing_to_change_is_not_copied():
    model = build("resnet_mini")
    assert inference_copy(model) is model and not model.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backbone", ["resnet50", "resnet_mini", "swin_t"])
def test_half_precision_keeps_places_and_sums_in_float32(backbone, dtype):
    model = build(backbone)
    images = torch.randn(1, 2, 3, 64, 96)
    copy = inference_copy(model, dtype)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in copy.backbone.parameters() if p.dim() > 1} == {dtype}
    norms = (copy.encoder.layers[0].norm1, copy.decoder.layers[0].norm2_box)
    sums = torch.float32 if dtype == torch.bfloat16 else dtype
    assert {p.dtype for norm in norms for p in norm.parameters()} == {sums}
    assert {p.dtype for p in copy.controller.parameters()} == {torch.float32}
    with torch.inference_mode():
        states, features = copy.box_stream(images.to(dtype))
        expected = model(images)
        output = copy(images.to(dtype))
    assert features.dtype == dtype and states.sampled[-1].dtype == dtype
    for name in ("boxes", "references", "time_logits"):
        assert {t.dtype for t in getattr(states, name)} == {torch.float32}, name
    assert output.class_logits.dtype == output.mask_params.dtype == torch.float32
    assert (output.boxes - expected.boxes).abs().max() < 0.02
    assert (output.class_logits - expected.class_logits).abs().max() < 0.15
