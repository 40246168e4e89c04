"""A Swin Transformer with sizes that are symbols: they stay simple, so tracing ends."""

import re

import pytest
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from seqformer.export.graph import OUTPUTS, ClipGraph
from seqformer.export.sampling import in_plain_operators
from seqformer.inference.predictor import Predictor
from seqformer.model import SeqFormer, backbone, build_model
from seqformer.model.swin import PatchEmbed, PatchMerging, SwinBlock, _shift_mask
from tests.export.files import CLASSES, CONFIG, clip
from tests.inference.small_model import SIZES as SMALL

TINY = {"channels": 16, "depths": (1, 2, 1, 1), "heads": (1, 2, 4, 8), "window": 7}
SIZES = [(1, 65, 65), (3, 75, 101), (2, 112, 224), (2, 67, 130), (1, 231, 450)]
"""T, H, W: multiples of windows and patches, and others."""


def test_sizes_stay_simple():
    embed, merge = PatchEmbed(8), PatchMerging(8)
    block = SwinBlock(8, heads=2, window=3, shift=1, drop_path=0.0)
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    images = mode.from_tensor(torch.zeros(2, 3, 67, 131))
    with mode, enable_python_dispatcher(), torch.no_grad():
        x = embed(images)
        mask = _shift_mask(x.shape[1], x.shape[2], 3, 1, x)
        merged = merge(block(x, mask))
    sides = [re.sub(r"\bs\d+\b", "side", str(n)) for n in merged.shape[1:3]]
    assert sides == ["(((side - 1)//8)) + 1"] * 2 and merged.shape[3] == 16


@pytest.fixture(scope="module")
def tiny() -> SeqFormer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbone._SWINS, "swin_t", TINY)
        torch.manual_seed(0)
        model = build_model("swin_t", **SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.slow  # minutes
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("ending", "tolerance"), [("pt2", 1e-5), ("onnx", 1e-4)])
def test_results_are_those_of_the_model(ending, tolerance, tiny, tmp_path):
    if ending == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"swin.{ending}"
    Predictor(tiny, CLASSES, CONFIG, "cpu").export(path, ending)
    network = Predictor.from_exported(path, "cpu").network
    graph = ClipGraph(tiny, in_plain_operators, CONFIG.top_k).eval()
    assert network.description.least_side == 65
    for size in SIZES:
        images, state = clip(*size), graph.empty_state()
        with torch.no_grad():
            results, expected = network._run(images, state), graph(images, state)
        for name, got, one in zip(OUTPUTS, results, expected, strict=True):
            torch.testing.assert_close(
                got,
                one,
                rtol=tolerance,
                atol=tolerance * max(1.0, one.abs().max().item()),
                msg=lambda text, name=name, size=size: f"{name} of {size}: {text}",
            )
