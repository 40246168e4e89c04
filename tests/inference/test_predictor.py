"""Post-processing against results worked out by hand, on a model whose outputs are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from seqformer.config import IMAGENET_MEAN, IMAGENET_STD, EvalConfig
from seqformer.devices import choose_device
from seqformer.inference import mask_rendering
from seqformer.inference.mask_encoder import MaskEncoder
from seqformer.inference.predictor import Predictor
from seqformer.inference.resize import resize_frame
from seqformer.model import build_model, save_safetensors
from seqformer.model.decoder import BoxStates
from seqformer.structures import ClassMap, ClipOutput
from tests.export.files import same_predictions
from tests.inference.small_model import film, small_model

SIDE = 16
"""Frames and network input of the hand-made cases; two 8-pixel mask cells a side."""


class GivenOutput(nn.Module):
    """Stands for a model: answers with prepared outputs and remembers its input.

    Its pooled samples carry nothing; the instances' outputs are those prepared, whatever frames
    went before.
    """

    def __init__(self, output: ClipOutput) -> None:
        super().__init__()
        self.output = output
        self.mask_stride = output.mask_stride
        self.images = []

    def box_stream(self, images, padding_mask=None):
        assert padding_mask is None
        first = sum(i.shape[1] for i in self.images)
        self.images.append(images)
        part = slice(first, first + images.shape[1])
        boxes = self.output.boxes[-1, :, part]
        nothing = torch.zeros(*boxes.shape[:3], 1)
        references = self.output.reference_points[-1, :, part]
        states = BoxStates([nothing], [nothing], [boxes], [references])
        return states, self.output.mask_features[:, part]

    def instance_stream(self, pooled):
        return [pooled[0]]

    def instance_heads(self, instances, last_layer_only=False):
        assert last_layer_only
        return self.output.class_logits[-1:], self.output.mask_params[-1:]


def head_reading_channel(channel: int) -> torch.Tensor:
    """169 mask parameters with logit = mask feature `channel` - 0.5."""
    params = torch.zeros(169)
    params[2 + channel] = 1  # W0[0]: after the two relative coordinates
    params[80] = 1  # W1[0, 0]
    params[144] = 1  # W2[0]
    params[168] = -0.5  # b2
    return params


def head_left_of_reference() -> torch.Tensor:
    """169 mask parameters with logit = max(reference x - cell x, 0) - 0.5."""
    params = torch.zeros(169)
    params[0] = params[80] = params[144] = 1
    params[168] = -0.5
    return params


def clip_output(scores, features, num_frames=2, heads=None, reference=0.5) -> ClipOutput:
    """Q queries whose head reads channel q; scores [Q, K]; features [T, 8, 2, 2]."""
    scores = torch.tensor(scores)
    Q = len(scores)
    heads = torch.stack(heads or [head_reading_channel(q) for q in range(Q)])
    return ClipOutput(
        class_logits=torch.logit(scores)[None, None],
        boxes=torch.tensor([0.5, 0.5, 0.5, 0.25]).expand(1, 1, num_frames, Q, 4).clone(),
        mask_params=heads[None, None],
        reference_points=torch.full((1, 1, num_frames, Q, 2), reference),
        mask_features=features[None],
        mask_stride=8,
    )


def full_features(num_frames=2) -> torch.Tensor:
    """All channels one: every query covers every frame."""
    return torch.ones(num_frames, 8, 2, 2)


def predict(output, num_frames=2, classes=None, size=(SIDE, SIDE), **config):
    config = EvalConfig(short_side=SIDE, **config)
    frames = np.zeros((num_frames, *size, 3), np.uint8)
    return Predictor(GivenOutput(output), classes, config, "cpu").predict(frames)


def summary(prediction):
    return [(d.query, d.class_index, round(d.score, 3)) for d in prediction.detections]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((208, 320), (360, 553)), ((320, 208), (553, 360)), ((50, 50), (360, 360))],
)
def test_short_side_is_exact_and_long_side_rounded_down(size, expected):
    assert resize_frame(np.zeros((*size, 3), np.uint8), 360).shape == (*expected, 3)


def test_long_side_is_not_bounded():
    assert resize_frame(np.zeros((36, 360, 3), np.uint8), 360).shape == (360, 3600, 3)


def test_network_input_is_normalised():
    model = GivenOutput(clip_output([[0.5]], full_features(1), 1))
    frame = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Predictor(model, config=EvalConfig(short_side=SIDE), device="cpu").predict([frame])
    expected = (frame / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert [i.shape for i in model.images] == [(1, 1, 3, SIDE, SIDE)]
    np.testing.assert_allclose(model.images[0][0, 0].permute(1, 2, 0), expected, atol=1e-5)


def test_classes_of_a_query_stay_together():
    scores = [[0.10, 0.20, 0.65], [0.90, 0.05, 0.30], [0.01, 0.70, 0.02]]
    prediction = predict(clip_output(scores, full_features()), top_k=5)
    # Sorted pairs: (1,0) .90, (2,1) .70, (0,2) .65, (1,2) .30, (0,1) .20
    assert summary(prediction) == [
        (1, 0, 0.9),
        (1, 2, 0.3),
        (2, 1, 0.7),
        (0, 2, 0.65),
        (0, 1, 0.2),
    ]


def test_empty_query_is_left_out():
    features = full_features()
    features[:, 1] = 0  # nothing in any frame: dropped with both its classes
    features[0, 0] = 0  # nothing in one frame: stays, with an empty mask there
    scores = [[0.6, 0.1], [0.9, 0.8], [0.3, 0.2]]
    prediction = predict(clip_output(scores, features), top_k=4)
    assert summary(prediction) == [(0, 0, 0.6), (2, 0, 0.3)]
    areas = [coco_mask.area(s) for s in prediction.detections[0].segmentations]
    assert areas == [0, SIDE * SIDE]


def test_low_scores_carry_no_masks():
    prediction = predict(clip_output([[0.5, 0.0009]], full_features()), top_k=2)
    assert [d.score for d in prediction.detections] == pytest.approx([0.5, 0.0009])
    assert None not in prediction.detections[0].segmentations
    assert prediction.detections[1].segmentations == (None, None)
    assert prediction.detections[1].mask(0) is None


def test_index_is_category_id_without_map():
    scores = np.full((1, 42), 0.1, np.float32)
    scores[0, [0, 41]] = 0.9, 0.8
    prediction = predict(clip_output(scores, full_features()), top_k=2)
    assert [d.category_id for d in prediction.detections] == [0, 41]


def test_class_map_gives_ids_and_silences_unused_outputs():
    classes = ClassMap((7, -1, 900), ("a", "", "b"))
    scores = [[0.5, 0.99, 0.6]]
    prediction = predict(clip_output(scores, full_features()), classes=classes, top_k=3)
    assert [(d.class_index, d.category_id) for d in prediction.detections] == [(2, 900), (0, 7)]


def test_masks_have_the_size_of_the_last_frame():
    model = GivenOutput(clip_output([[0.9]], full_features()))
    predictor = Predictor(model, config=EvalConfig(short_side=SIDE), device="cpu")
    frames = [np.zeros((n, n, 3), np.uint8) for n in (SIDE, 2 * SIDE)]
    prediction = predictor.predict(frames)
    assert prediction.frame_size == (2 * SIDE, 2 * SIDE)
    sizes = [s["size"] for s in prediction.detections[0].segmentations]
    assert sizes == [[2 * SIDE, 2 * SIDE]] * 2


def test_mask_coordinates_are_pixels_of_the_network_input():
    # Cell centres of the map lie at x = 4 and 12 of 16 network pixels; the reference is at x = 8,
    # so only the left cell has a positive logit, whatever the size of the original frame.
    output = clip_output([[0.9]], full_features(1), 1, heads=[head_left_of_reference()])
    mask = predict(output, 1, size=(4 * SIDE, 4 * SIDE)).detections[0].mask(0)
    # After the aligned x2 the logits are (3.5, 3.5, 1.5, -0.5): zero at 2.75 of 4 columns, i.e. at
    # (2.75 + 0.5) / 4 of the frame's width, 52 of 64 pixels.
    assert np.array_equal(mask, np.arange(64)[None].repeat(64, 0) < 52)


def test_boxes_are_pixels_of_the_original_frame():
    prediction = predict(clip_output([[0.9]], full_features()), size=(32, 32))
    expected = [[8, 12, 24, 20]] * 2
    np.testing.assert_allclose(prediction.detections[0].boxes_xyxy, expected)


def test_only_queries_of_the_output_are_rendered(monkeypatch):
    rendered = []
    original = mask_rendering.render_masks

    def counting(features, params, *rest):
        rendered.append(len(params))
        return original(features, params, *rest)

    monkeypatch.setattr(mask_rendering, "render_masks", counting)
    scores = [[0.9, 0.8], [0.7, 0.6], [0.5, 0.4], [0.3, 0.2]]
    predict(clip_output(scores, full_features()), top_k=3)
    assert rendered == [2]


def test_top_k_may_exceed_the_number_of_pairs():
    assert len(predict(clip_output([[0.9, 0.1]], full_features()), top_k=50).detections) == 2


@pytest.mark.parametrize("name", ["class_logits", "boxes", "mask_params", "mask_features"])
def test_outputs_that_are_not_finite_are_refused(name):
    output = clip_output([[0.9]], full_features())
    getattr(output, name).view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN.*diverged"):
        predict(output)


def test_bad_frames_are_refused_in_words():
    predictor = Predictor(GivenOutput(clip_output([[0.9]], full_features())), device="cpu")
    with pytest.raises(ValueError, match="no frames"):
        predictor.predict([])
    with pytest.raises(ValueError, match="frame 0 must be uint8 RGB"):
        predictor.predict(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="frame 1 is 9x6 pixels"):
        predictor.predict([np.zeros((6, 8, 3), np.uint8), np.zeros((6, 9, 3), np.uint8)])


@pytest.mark.parametrize("is_compiled", [True, False])
def test_threshold_is_that_of_the_sigmoid(is_compiled, monkeypatch):
    if not is_compiled:
        monkeypatch.setattr(mask_rendering, "encode_frame_masks", lambda *_: None)
    logits = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0)) * 4
    full = torch.nn.functional.interpolate(logits[:, None], (33, 50), mode="bilinear")[:, 0]
    expected = (full.sigmoid() > 0.5).numpy()
    for pixels in (1, 2 * 33 * 50, 2**23):  # one, two and all frames at once
        monkeypatch.setattr(mask_rendering, "MAX_PIXELS_AT_ONCE", pixels)
        jobs = mask_rendering.compress_masks(logits, (33, 50), MaskEncoder())
        assert sum(count for count, _ in jobs) == 5
        decoded = [coco_mask.decode(rle) for _, job in jobs for rle in job.result()]
        assert np.array_equal(np.stack(decoded), expected)
    jobs = mask_rendering.compress_masks(-logits.abs() - 1, (33, 50), MaskEncoder())
    assert not any(job.has_pixels for _, job in jobs)


def test_cuda_without_gpu_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="no usable GPU"):
        choose_device("cuda")


def test_whole_network_from_its_checkpoint(tmp_path):
    torch.manual_seed(0)
    model = build_model(
        "resnet_mini",
        num_classes=2,
        hidden_dim=32,
        num_queries=5,
        num_encoder_layers=1,
        num_decoder_layers=2,
        ffn_dim=32,
        mask_dim=8,
    )
    classes = ClassMap((3, 8), ("cat", "dog"))
    save_safetensors(tmp_path / "mini.safetensors", model, classes)
    config = EvalConfig(short_side=48, top_k=4)
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 61, 3), dtype=np.uint8)
    predictor = Predictor.from_checkpoint(tmp_path / "mini.safetensors", config=config)
    prediction = predictor.predict(frames)
    assert predictor.classes == classes and not predictor.model.training
    assert prediction.num_frames == 3 and prediction.frame_size == (40, 61)
    assert {d.category_id for d in prediction.detections} <= {3, 8}
    for detection in prediction.detections:
        assert detection.boxes_xyxy.shape == (3, 4)
        assert [s["size"] for s in detection.segmentations] == [[40, 61]] * 3
    again = predictor.predict(list(frames))
    assert again.entries(1, "x") == prediction.entries(1, "x")
    with pytest.raises(ValueError, match="2 class outputs but the class map has 1"):
        Predictor.from_checkpoint(tmp_path / "mini.safetensors", classes=ClassMap((1,), ("a",)))


def test_compiled_network_gives_the_same_tracks(monkeypatch):
    compiled = []

    def spy(function, **options):
        compiled.append(options)
        return function

    monkeypatch.setattr(torch, "compile", spy)
    predictor = Predictor(small_model(), device="cpu", config=EvalConfig(short_side=40))
    plain = predictor.predict(film(3))
    assert not compiled
    predictor.is_compiled = True
    again = predictor.predict(film(3))
    assert [options["fullgraph"] and options["dynamic"] for options in compiled] == [True]
    same_predictions(again, plain)


@pytest.mark.slow
def test_network_compiled_by_inductor_gives_the_same_tracks():
    config = EvalConfig(short_side=40, chunk_frames=2)
    predictor = Predictor(small_model(), device="cpu", config=config)
    plain = predictor.predict(film(5))
    predictor.is_compiled = True
    same_predictions(predictor.predict(film(5)), plain)
