"""Properties of the model: shapes, frames, padding, gradients, and that it can learn."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from seqformer import build_model, kernels, training_losses
from seqformer.criterion import SetCriterion
from seqformer.model import TemporalPool
from seqformer.model.position_encoding import unpadded_geometry

SMALL = dict(
    backbone="resnet_mini",
    num_classes=3,
    hidden_dim=32,
    num_heads=4,
    num_encoder_layers=1,
    num_decoder_layers=3,
    num_queries=7,
    ffn_dim=64,
    mask_dim=16,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_model(**SMALL)
    for parameter in model.parameters():  # leave the symmetric initial state
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return model


def random_targets(sizes, T, counts=(2, 1), K=3):
    g = torch.Generator().manual_seed(1)
    return [
        {
            "labels": torch.randint(K, (n,), generator=g),
            "boxes": torch.rand(n, T, 4, generator=g) * 0.3 + 0.3,
            "masks": torch.rand(n, T, h, w, generator=g) > 0.5,
            "size": (h, w),
        }
        for n, (h, w) in zip(counts, sizes, strict=True)
    ]


@pytest.mark.parametrize(("B", "T", "H", "W"), [(1, 1, 32, 40), (2, 3, 33, 50), (1, 7, 36, 31)])
def test_shapes(model, B, T, H, W):
    output = model(torch.randn(B, T, 3, H, W))
    h, w = -(-H // 4), -(-W // 4)
    assert output.class_logits.shape == (3, B, 7, 3)
    assert output.boxes.shape == (3, B, T, 7, 4)
    assert output.mask_params.shape == (3, B, 7, 169)
    assert output.reference_points.shape == (3, B, T, 7, 2)
    assert output.mask_features.shape == (B, T, 8, h, w)
    assert output.mask_stride == 4
    assert (output.boxes > 0).all() and (output.boxes < 1).all()
    assert (output.mask_features >= 0).all()  # parity: the last ReLU of the mask branch is real


def test_frames_permute(model):
    model.eval()
    images = torch.randn(1, 4, 3, 32, 48)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        plain, permuted = model(images), model(images[:, order])
    torch.testing.assert_close(permuted.class_logits, plain.class_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted.boxes, plain.boxes[:, :, order], rtol=1e-4, atol=1e-5)


def test_boxes_of_a_frame_do_not_depend_on_other_frames(model):
    model.eval()
    images = torch.randn(1, 3, 3, 32, 48)
    with torch.no_grad():
        clip, alone = model(images), model(images[:, 1:2])
    torch.testing.assert_close(alone.boxes[:, :, 0], clip.boxes[:, :, 1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone.class_logits, clip.class_logits, atol=1e-4)


def test_clips_of_a_batch_do_not_mix(model):
    model.eval()
    images = torch.randn(2, 2, 3, 32, 48)
    with torch.no_grad():
        both, second = model(images), model(images[1:])
    torch.testing.assert_close(both.class_logits[:, 1:], second.class_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.boxes[:, 1:], second.boxes, rtol=1e-4, atol=1e-5)


def test_content_of_padding_does_not_reach_queries(model):
    model.eval()
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 32:] = True
    mask[:, :, 48:] = True
    images = torch.zeros(1, 2, 3, 64, 64)
    images[..., :32, :48] = torch.randn(1, 2, 3, 32, 48)
    with torch.no_grad():
        memory, shapes, valid_shapes, ratios = model.encode(images, mask)
        assert valid_shapes.tolist() == [[[8, 12], [4, 6], [2, 3], [1, 2]]]
        padding = ~kernels.deformable_attention.reference.inside_mask(valid_shapes, shapes)
        noisy = torch.where(padding[..., None], torch.randn_like(memory), memory)
        states = [_decode(model, m, shapes, valid_shapes, ratios) for m in (memory, noisy)]
    torch.testing.assert_close(states[0].boxes, states[1].boxes)
    pools = [TemporalPool.of(s.time_logits, s.sampled).pooled() for s in states]
    torch.testing.assert_close(model.instance_stream(pools[0]), model.instance_stream(pools[1]))


def test_padding_that_is_no_rectangle_is_refused(model):
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 20, 20] = True
    with pytest.raises(ValueError, match="a rectangle at the top left of every clip"):
        model(torch.zeros(1, 2, 3, 64, 64), mask)


def _decode(model, memory, shapes, valid_shapes, ratios):
    position, content = model.query_embed.weight.chunk(2, dim=1)
    reference = model.reference_points(position).sigmoid().expand(1, 1, -1, -1)
    return model.decoder.box_stream(
        content.expand(1, 1, -1, -1), position, reference, memory, shapes, valid_shapes, ratios
    )


def test_every_trained_parameter_gets_a_gradient(model):
    model.train()
    losses = training_losses(model, torch.randn(2, 2, 3, 32, 48), None,
                             random_targets([(32, 48), (32, 48)], 2))  # fmt: skip
    SetCriterion().weighted_sum(losses).backward()
    for name, parameter in model.named_parameters():
        used = "encoder" not in name or "output_proj_box" not in name
        assert parameter.requires_grad == used, name
        assert (parameter.grad is not None) == used, name


def test_a_batch_without_instances_still_gives_every_gradient(model):
    targets = random_targets([(32, 48), (30, 40)], 2, counts=(0, 0))
    mask = torch.zeros(2, 32, 64, dtype=torch.bool)
    losses = training_losses(model, torch.randn(2, 2, 3, 32, 64), mask, targets)
    assert float(losses["loss_dice"].detach()) == 0
    SetCriterion().weighted_sum(losses).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_one_clip_overfits(model):
    torch.manual_seed(0)
    images = torch.randn(1, 2, 3, 32, 48)
    masks = torch.zeros(1, 2, 32, 48, dtype=torch.bool)
    masks[:, :, 8:24, 12:36] = True
    box = torch.tensor([0.5, 0.5, 0.5, 0.5]).expand(1, 2, 4)
    targets = [{"labels": torch.tensor([1]), "boxes": box, "masks": masks, "size": (32, 48)}]
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    criterion = SetCriterion()
    totals = []
    for _ in range(60):
        losses = criterion(model(images), targets)
        total = criterion.weighted_sum(losses)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.25 * totals[0]
    assert float(losses["loss_dice"].detach()) < 0.15
    assert float(losses["class_error"]) == 0


@pytest.mark.parametrize(
    ("images", "mask", "message"),
    [
        (torch.zeros(2, 3, 32, 32), None, r"images must be \[B, T, 3, H, W\]"),
        (torch.zeros(1, 0, 3, 32, 32), None, "are empty"),
        (torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8), None, "must be normalised floats"),
        (torch.zeros(1, 1, 3, 32, 32), torch.zeros(1, 32, 32), "padding_mask must be bool"),
        (torch.zeros(1, 1, 3, 32, 32), torch.zeros(1, 8, 8, dtype=torch.bool), r"\[1, 32, 32\]"),
    ],
)
def test_bad_input_is_named(model, images, mask, message):
    with pytest.raises(ValueError, match=message):
        model(images, mask)


def test_no_python_loop_over_frames_or_instances(model):
    """Operators dispatched do not grow with T or N, and with B only by the ragged target lists.

    On the reference backend, as the CPU path cuts its work into cache-sized blocks.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += 1
            return func(*args, **(kwargs or {}))

    def operators(B, T, n):
        targets = random_targets([(32, 48)] * B, T, counts=(n,) * B)
        with kernels.use_backend("reference"), Count() as count:
            training_losses(model, torch.randn(B, T, 3, 32, 48), None, targets)
        return count.calls

    operators(2, 2, 2)  # geometry of this shape is kept from now on
    base = operators(2, 2, 2)
    assert operators(2, 6, 2) == base
    assert operators(2, 2, 5) == base
    assert operators(5, 2, 2) <= base + 3 * 20  # cutting the ragged target list, per clip


def test_what_a_tracer_makes_is_not_kept():
    """Geometry of unpadded clips is kept by shape; under fake tensors it has no values."""
    shapes = ((3, 5), (2, 3))
    with FakeTensorMode():
        assert isinstance(unpadded_geometry(shapes, 8, torch.device("cpu")).reference, FakeTensor)
    geometry = unpadded_geometry(shapes, 8, torch.device("cpu"))
    assert not isinstance(geometry.reference, FakeTensor)
    assert unpadded_geometry(shapes, 8, torch.device("cpu")) is geometry


def test_the_encoder_holds_nothing_of_its_attention_during_the_feed_forward_block(model):
    """Which is where inference needs most memory, on large frames."""
    layer, seen, alive = model.encoder.layers[0], [], []
    attention = layer.self_attn
    attention.register_forward_hook(
        lambda _, args, made: seen.extend(map(weakref.ref, (args[3], made)))  # value and samples
    )
    attention.output_proj.register_forward_hook(
        lambda _, args, made: seen.append(weakref.ref(made))
    )
    layer.ffn.register_forward_pre_hook(
        lambda *_: alive.append([made() is not None for made in seen])
    )
    with torch.inference_mode():
        model(torch.randn(1, 1, 3, 64, 64))
    assert alive == [[False] * 3]


@pytest.mark.parametrize("backbone", ["resnet_mini", "swin_t"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
def test_a_half_model_runs_both_ways(backbone, dtype, tolerance):
    torch.manual_seed(0)
    model = build_model(
        backbone, num_classes=3, hidden_dim=32, num_heads=4, num_encoder_layers=1,
        num_decoder_layers=2, num_queries=4, ffn_dim=16, mask_dim=8,
    ).eval()  # fmt: skip
    images, padding = torch.randn(1, 2, 3, 48, 64), torch.zeros(1, 48, 64, dtype=torch.bool)
    padding[:, :, 56:] = True
    expected = model(images, padding)
    model.to(dtype)
    output = model(images.to(dtype), padding)
    assert output.boxes.dtype == output.class_logits.dtype == dtype
    assert (output.boxes.float() - expected.boxes).abs().max() < tolerance
    assert (output.class_logits.float() - expected.class_logits).abs().max() < 10 * tolerance
    output.total().backward()
    assert model.query_embed.weight.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"images are torch\.float32 but the model's weights"):
        model(images, padding)
