"""Pictures through the predictor: masks are cut, not stretched; boxes stay those of the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seqformer.annotations.run_lengths import decode_mask
from seqformer.config import EvalConfig
from seqformer.data.video_sources import VideoSource
from seqformer.inference import Predictor
from seqformer.inference.coco_results import covered, predict
from seqformer.model import build_model, render_masks
from tests.parity.test_inference import normalise

H, W = 42, 50
"""No multiples of the small backbone's 4: its features cover 44 x 52 pixels."""


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    sizes = dict(num_encoder_layers=1, num_decoder_layers=2, ffn_dim=32, mask_dim=8)
    model = build_model("resnet_mini", num_classes=3, hidden_dim=32, num_queries=6, **sizes)
    with torch.no_grad():  # masks with edges, and boxes that differ
        model.controller.layers[-1].weight.mul_(4)
        model.decoder.bbox_embed[-1].last.weight.normal_(std=0.5)
    return model.eval()


def published(model, image: np.ndarray) -> list[dict]:
    """The published rule at a scale of 1: the map enlarged, thresholded, and cut."""
    with torch.no_grad():
        output = model(normalise(image[None])[None])
    scores = output.class_logits[-1, 0].sigmoid()
    best = scores.flatten().topk(8)
    found = []
    for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        query, label = divmod(index, scores.shape[1])
        where = output.reference_points[-1, 0][:, [query]] * torch.tensor([W, H])
        logits = render_masks(
            output.mask_features[0, None],
            output.mask_params[-1, 0, [query]],
            where.transpose(0, 1),
            torch.zeros(1, dtype=torch.long),
            output.mask_stride,
        )
        large = F.interpolate(logits, scale_factor=output.mask_stride // 2, mode="bilinear")[0, 0]
        cx, cy, w, h = (output.boxes[-1, 0, 0, query] * torch.tensor([W, H, W, H])).tolist()
        left, right = np.clip([cx - w / 2, cx + w / 2], 0, W)  # ours keeps boxes inside
        top, bottom = np.clip([cy - h / 2, cy + h / 2], 0, H)
        found.append(
            {"score": score, "label": label, "mask": (large > 0)[:H, :W].numpy()}
            | {"box": [left, top, right - left, bottom - top]}
        )
    return found


def test_masks_boxes_and_scores_are_those_of_the_published_rule(model):
    image = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    config = EvalConfig(short_side=H, top_k=8, min_score=0.0)
    predictor = Predictor(model, config=config, device="cpu")
    still = VideoSource(
        video_id=7, name="x", first_file_name="x.png", paths=(Path("x.png"),), is_still=True
    )
    prediction, entries = predict(predictor, still, [(image, (H, W))])
    assert prediction.frame_size == (H, W)
    expected = {round(e["score"], 5): e for e in published(model, image)}
    assert len(expected) == 8 and any(0 < e["mask"].sum() < H * W for e in expected.values())
    shown = [e for e in expected.values() if e["mask"].any()]
    assert len(entries) >= len(shown) >= 3
    for entry in entries:
        other = expected[round(entry["score"], 5)]
        assert (entry["image_id"], entry["category_id"]) == (7, other["label"])
        assert entry["bbox"] == pytest.approx(other["box"], abs=1e-3)
        mask = decode_mask(entry["segmentation"])
        assert mask.shape == (H, W)
        assert (mask != other["mask"]).sum() <= 1  # a logit next to 0


def test_the_area_of_the_features():
    assert covered((42, 50), (42, 50), 4) == (44, 52)
    assert covered((480, 640), (800, 1067), 8) == (480, 643)
    assert covered((480, 640), (480, 640), 8) == (480, 640)
