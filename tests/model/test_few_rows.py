"""A model of few queries takes the blocks on few rows, and its results stay what they are."""

from __future__ import annotations

import pytest
import torch

from seqformer._kernels import kernels
from tests.inference.small_model import film, small_model

few_rows = kernels.few_rows


@pytest.mark.skipif(few_rows.why_not_available() is not None, reason="there is no C compiler")
def test_the_model_takes_them_and_its_results_stay(monkeypatch):
    model = small_model()
    images = torch.from_numpy(film(2)).permute(0, 3, 1, 2)[None].float() / 255
    taken = []
    for name in ("attend", "feed_forward", "linear_norm", "linears_of_sum", "mlp"):
        run = getattr(few_rows, name)
        monkeypatch.setattr(
            few_rows, name, lambda *a, run=run, name=name: taken.append(name) or run(*a)
        )
    with torch.inference_mode():
        actual = model(images)
        counts = {name: taken.count(name) for name in taken}
        monkeypatch.setattr(few_rows, "fits", lambda *_: False)
        expected = model(images)
    layers = model.config.num_decoder_layers
    assert counts == {
        "attend": 2 * layers,  # both streams
        "linear_norm": 2 * layers - 1,  # before the first, all frames share the box queries
        "feed_forward": 2 * layers,
        "linears_of_sum": layers,  # samples
        "mlp": layers + 1,  # boxes, and mask parameters
    }
    for name in ("class_logits", "boxes", "mask_params", "mask_features"):
        one, other = getattr(actual, name), getattr(expected, name)
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)
