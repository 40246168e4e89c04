"""A .pt2 file: the network's results at any size and length, without SeqFormer, chunk by chunk."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from seqformer.export.graph import OUTPUTS
from seqformer.inference import exported_network
from seqformer.inference.predictor import Predictor
from seqformer.model import render_masks
from tests.export.files import (
    CLASSES,
    CONFIG,
    SIZES,
    clip,
    exported,
    graph,
    predictor,
    same_predictions,
)
from tests.inference.small_model import film, small_model


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    """Loading takes seconds, most of them for symbolic sizes: once for all tests."""
    monkeypatch.setattr(exported_network, "open_exported", loaded)


@pytest.fixture
def run():
    return loaded(exported("pt2"), torch.device("cpu"))[0]


loaded = cache(exported_network.open_exported)


def test_graph_has_plain_operators_only(run):
    targets = {str(n.target) for n in run.graph.nodes if n.op == "call_function"}
    foreign = [t for t in targets if not t.startswith(("aten.", "<built-in function"))]
    assert len(targets) > 20 and not foreign


@pytest.mark.parametrize("size", SIZES)
def test_results_are_those_of_the_model(run, size):
    model, images = small_model(), clip(*size)
    state = graph().empty_state()
    with torch.no_grad():
        results = dict(zip(OUTPUTS, run(images, state), strict=True))
        expected = model(images, last_layer_only=True)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(results["class_logits"], expected.class_logits[-1], **close)
    torch.testing.assert_close(results["boxes"], expected.boxes[-1], **close)
    torch.testing.assert_close(results["mask_params"], expected.mask_params[-1], **close)
    torch.testing.assert_close(results["mask_features"], expected.mask_features, **close)
    torch.testing.assert_close(results["reference_points"], expected.reference_points[-1], **close)
    queries = results["queries"]
    best = expected.class_logits[-1, 0].amax(-1).topk(CONFIG.top_k).indices
    assert queries.tolist() == best.tolist()
    masks = render_masks(
        expected.mask_features,
        expected.mask_params[-1, 0, queries],
        expected.reference_points[-1, 0, :, queries].transpose(0, 1)
        * torch.tensor([size[2], size[1]]),
        torch.zeros_like(queries),
        model.mask_stride,
    )
    scale = masks.abs().max().item()
    torch.testing.assert_close(results["mask_logits"], masks, rtol=1e-5, atol=1e-5 * scale)


def test_chunks_with_their_state_give_the_whole(run):
    images = clip(7, 64, 96)
    with torch.no_grad():
        whole = run(images, graph().empty_state())
        state, parts = graph().empty_state(), []
        for start, stop in ((0, 3), (3, 4), (4, 7)):
            parts.append(run(images[:, start:stop], state))
            state = parts[-1][-1]
    last = dict(zip(OUTPUTS, parts[-1], strict=True))
    expected = dict(zip(OUTPUTS, whole, strict=True))
    for name in ("class_logits", "mask_params", "next_state"):
        torch.testing.assert_close(last[name], expected[name], rtol=1e-5, atol=1e-5)
    boxes = torch.cat([part[OUTPUTS.index("boxes")] for part in parts], dim=1)
    torch.testing.assert_close(boxes, expected["boxes"], rtol=1e-5, atol=1e-5)


def test_runs_where_seqformer_is_missing(tmp_path):
    images, state = clip(2, 61, 83), graph().empty_state()
    torch.save((images, state), tmp_path / "inputs.pt")
    script = f"""
import sys, torch, json
extra = {{"seqformer.json": ""}}
program = torch.export.load({str(exported("pt2"))!r}, extra_files=extra)
results = program.module()(*torch.load("inputs.pt"))
torch.save(results, "results.pt")
assert json.loads(extra["seqformer.json"])["classes"]["names"] == ["cat", "dog", "cow"]
assert not any(name.partition(".")[0] in ("seqformer", "kernels") for name in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        expected = graph()(images, state)
    for got, one in zip(torch.load(tmp_path / "results.pt"), expected, strict=True):
        torch.testing.assert_close(got, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk_frames", [2, 6])
def test_predictor_gives_the_same_tracks(chunk_frames):
    ours = Predictor.from_exported(exported("pt2"), "cpu")
    assert ours.classes == CLASSES and ours.config == CONFIG
    ours.config = replace(ours.config, chunk_frames=chunk_frames)
    frames = film(5)
    same_predictions(ours.predict(frames), predictor().predict(frames))


def test_what_a_graph_cannot_do_is_said():
    ours = Predictor.from_exported(exported("pt2"), "cpu")
    for change in ({"mode": "clips"}, {"precision": "bf16"}):
        ours.config = replace(CONFIG, **change)
        with pytest.raises(ValueError, match="take the checkpoint itself"):
            ours.predict(film(2))
    ours.config = replace(CONFIG, short_side=16)
    with pytest.raises(ValueError, match="at least 33 pixels a side"):
        ours.predict(film(2))
    with pytest.raises(ValueError, match="cannot be exported again"):
        ours.export("other.pt2")


def test_results_file_through_the_command(tmp_path):
    from PIL import Image

    from seqformer.cli.eval import main
    from seqformer.model import save_safetensors

    frames = film(4)
    (tmp_path / "video").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(np.asarray(frame)).save(tmp_path / "video" / f"{number:05}.png")
    save_safetensors(tmp_path / "small.safetensors", small_model(), CLASSES)
    results = {}
    for name, weights in (("graph", exported("pt2")), ("weights", tmp_path / "small.safetensors")):
        output = tmp_path / name / "results.json"
        arguments = ["--weights", weights, "--images", tmp_path / "video", "--output", output]
        options = ["--short-side", "40", "--top-k", "4", "--device", "cpu"]
        assert main([*map(str, arguments), *options]) == 0
        results[name] = json.loads(output.read_text())
    assert len(results["graph"]) == len(results["weights"]) > 0
    for got, expected in zip(results["graph"], results["weights"], strict=True):
        assert got["category_id"] == expected["category_id"]
        assert abs(got["score"] - expected["score"]) < 1e-4
