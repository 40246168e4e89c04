"""The published model's outputs again, with the Triton kernels (interpreted without a GPU)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from seqformer import kernels
from seqformer.config import IMAGENET_MEAN, IMAGENET_STD
from seqformer.model import build_model, load_weights, render_masks
from tests.parity.weights import DATA, rule_state_dict


@pytest.mark.slow
def test_model_on_triton_kernels_matches_the_published_one(tmp_path):
    golden = np.load(DATA / "parity" / "infer_swin_t.npz")
    assert json.loads(str(golden["meta"]))["backbone"] == "swin_t"
    torch.save({"model": rule_state_dict("swin_t", 0)}, tmp_path / "weights.pth")
    model = build_model("swin_t").eval()
    load_weights(model, tmp_path / "weights.pth")
    images = torch.from_numpy(golden["frames"]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    images = (images - mean) / std
    queries = torch.from_numpy(golden["mask_query_ids"])[:4]
    size = torch.tensor([images.shape[-1], images.shape[-2]])
    with torch.no_grad(), kernels.use_backend("triton"):
        output = model(images[None])
        masks = render_masks(
            output.mask_features,
            output.mask_params[-1, 0, queries],
            (output.reference_points[-1, 0] * size).transpose(0, 1)[queries],
            torch.zeros(len(queries), dtype=torch.long),
            output.mask_stride,
        )
    for actual, name, atol in (
        (output.class_logits[-1, 0], "pred_logits", 2e-4),
        (output.boxes[-1, 0], "pred_boxes", 5e-5),
        (masks, "pred_masks", 1e-2),
    ):
        expected = torch.from_numpy(golden[name])[: len(actual)]
        torch.testing.assert_close(actual, expected, rtol=0, atol=atol, msg=name)
