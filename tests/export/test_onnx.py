"""ONNX files in onnxruntime, and the structure of those for TensorRT. Needs the extra `export`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from seqformer.export.graph import INPUTS, OUTPUTS
from seqformer.inference.predictor import Predictor
from tests.export.files import CONFIG, SIZES, clip, exported, graph, predictor, same_predictions
from tests.inference.small_model import film

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def session():
    return runtime.InferenceSession(exported("onnx"))


@pytest.mark.parametrize("size", SIZES)
def test_results_are_those_of_the_model(session, size):
    images, state = clip(*size), graph().empty_state()
    given = dict(zip(INPUTS, (images.numpy(), state.numpy()), strict=True))
    results = session.run(list(OUTPUTS), given)
    with torch.no_grad():
        expected = graph()(images, state)
    for name, got, one in zip(OUTPUTS, results, expected, strict=True):
        scale = max(1.0, one.abs().max().item())
        torch.testing.assert_close(
            torch.from_numpy(got), one, rtol=1e-4, atol=1e-4 * scale, msg=lambda m, n=name: n + m
        )


def test_chunks_with_their_state_give_the_whole(session):
    images, state = clip(7, 64, 96).numpy(), graph().empty_state().numpy()
    whole = session.run(["class_logits", "mask_params"], {"images": images, "state": state})
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        names = ["class_logits", "mask_params", "next_state"]
        *results, state = session.run(names, {"images": images[:, start:stop], "state": state})
    for got, expected in zip(results, whole, strict=True):
        torch.testing.assert_close(
            torch.from_numpy(got), torch.from_numpy(expected), rtol=1e-4, atol=1e-4
        )


def test_operators_are_standard():
    model = onnx.load(exported("onnx"))
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert [entry.domain for entry in model.opset_import] == [""]
    images = model.graph.input[0].type.tensor_type.shape.dim
    assert [bool(dim.dim_param) for dim in images] == [False, True, False, True, True]


@pytest.mark.parametrize("chunk_frames", [2, 6])
def test_predictor_gives_the_same_tracks(chunk_frames):
    ours = Predictor.from_exported(exported("onnx"))
    assert ours.device.type == "cpu" and ours.config == CONFIG
    ours.config = replace(ours.config, chunk_frames=chunk_frames)
    frames = film(5)
    same_predictions(ours.predict(frames), predictor().predict(frames))


def test_tensorrt_nodes_have_the_inputs_of_the_plugin():
    model = onnx.load(exported("onnx-tensorrt"))
    nodes = [n for n in model.graph.node if n.op_type == "MultiscaleDeformableAttnPlugin_TRT"]
    kinds = Counter(n.op_type for n in model.graph.node if n.domain)
    assert len(nodes) == 3 and kinds == {"MultiscaleDeformableAttnPlugin_TRT": 3}
    assert not any(n.op_type == "GridSample" for n in model.graph.node)
    known = {v.name: v.type.tensor_type for v in (*model.graph.value_info, *model.graph.input)}
    stored = {t.name: (t.data_type, list(t.dims)) for t in model.graph.initializer}

    def described(name):
        if name in stored:
            return stored[name]
        kind = known[name]
        return kind.elem_type, [d.dim_value or d.dim_param for d in kind.shape.dim]

    M, D, L, P, float32, int32 = 4, 8, 4, 4, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    for node in nodes:
        value, shapes, starts, locations, weights = map(described, node.input)
        assert value[0] == float32 and value[1][2:] == [M, D]
        assert shapes == (int32, [L, 2]) and starts == (int32, [L])
        assert locations[0] == float32 and locations[1][2:] == [M, L, P, 2]
        assert weights[0] == float32 and weights[1][2:] == [M, L, P]
        assert locations[1][:2] == weights[1][:2] and locations[1][0] == value[1][0]
        output = described(node.output[0])
        assert output[1][2:] == [M, D] and output[1][1] == locations[1][1]
        settings = {a.name: a.s.decode() for a in node.attribute}
        assert settings == {"plugin_version": "1", "plugin_namespace": ""}


def test_tensorrt_file_in_onnxruntime_is_one_sentence():
    with pytest.raises(ValueError, match="only TensorRT runs; use --format onnx"):
        Predictor.from_exported(exported("onnx-tensorrt"))
