"""The benchmark's baseline computes what our model computes."""

from __future__ import annotations

import pytest
import torch

from bench.baselines.published import published_inference, published_training_losses
from bench.suite.model_inputs import moving_rectangles, randomise
from bench.suite.ours import NUM_OUTPUT_QUERIES, our_inference, our_training_losses
from seqformer.criterion import SetCriterion
from seqformer.model import build_model

TINY = {
    "hidden_dim": 64,
    "num_heads": 4,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "ffn_dim": 64,
    "num_queries": 20,
    "num_classes": 7,
}


@pytest.fixture(scope="module", params=["resnet50", "resnet_mini"])
def model(request):
    torch.manual_seed(0)
    return randomise(build_model(request.param, **TINY))


def batch(sizes, counts, num_frames=3, seed=1):
    """Clips of several sizes in one padded batch, with a rectangle per instance."""
    generator = torch.Generator().manual_seed(seed)
    H, W = (32 * -(-max(size[axis] for size in sizes) // 32) for axis in (0, 1))
    images = torch.zeros(len(sizes), num_frames, 3, H, W)
    padding_mask = torch.ones(len(sizes), H, W, dtype=torch.bool)
    targets = []
    for b, ((h, w), count) in enumerate(zip(sizes, counts, strict=True)):
        images[b, ..., :h, :w] = torch.randn(num_frames, 3, h, w, generator=generator)
        padding_mask[b, :h, :w] = False
        targets.append(moving_rectangles(count, num_frames, (h, w), 7, generator))
    return images, padding_mask, targets


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [([(64, 96)], [3]), ([(64, 96), (50, 70)], [2, 4]), ([(64, 96), (64, 64)], [0, 2])],
    ids=["one clip", "padded", "clip without instances"],
)
def test_losses_and_gradients_agree(model, sizes, counts):
    model.train()
    images, padding_mask, targets = batch(sizes, counts)
    criterion = SetCriterion()
    results = []
    for losses_of in (our_training_losses, published_training_losses):
        model.zero_grad(set_to_none=True)
        losses = losses_of(model, images, padding_mask, targets)
        criterion.weighted_sum(losses).backward()
        results.append((losses, {n: p.grad for n, p in model.named_parameters()}))
    (ours, our_gradients), (published, published_gradients) = results

    assert set(ours) == set(published)
    for name, value in ours.items():
        is_mask = name.startswith(("loss_mask", "loss_dice"))
        tolerance = {"rtol": 0, "atol": 2e-3} if is_mask else {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(
            published[name], value, **tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )
    for name, gradient in our_gradients.items():
        other = published_gradients[name]
        assert (gradient is None) == (other is None), name
        if gradient is None:
            continue
        if name.endswith("time_attention_weights.bias"):
            assert max(gradient.abs().max(), other.abs().max()) <= 1e-4, name
        else:
            assert (gradient - other).norm() <= 2e-2 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("size", [(64, 96), (75, 53)], ids=["even", "odd"])
def test_inference_agrees(model, size):
    model.eval()
    images = torch.randn(1, 4, 3, *size, generator=torch.Generator().manual_seed(2))
    class_logits, boxes, masks = published_inference(model, images)
    our_logits, our_boxes, our_masks, queries = our_inference(model, images)
    torch.testing.assert_close(class_logits, our_logits, rtol=0, atol=2e-4)
    torch.testing.assert_close(boxes, our_boxes, rtol=0, atol=5e-5)
    assert len(queries) == NUM_OUTPUT_QUERIES
    torch.testing.assert_close(masks[queries], our_masks, rtol=0, atol=1e-2)


def test_dropout_is_refused():
    model = build_model("resnet_mini", dropout=0.1, **TINY).train()
    with pytest.raises(ValueError, match=r"dropout 0\.1"):
        published_training_losses(model, *batch([(32, 32)], [1]))
