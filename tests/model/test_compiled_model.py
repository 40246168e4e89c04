"""The whole model under torch.compile: one graph, for any frame size and number of frames."""

import logging
from contextlib import nullcontext
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from bench.suite.model_inputs import TINY, own_model_of, padding_and_targets, video
from seqformer._kernels import kernels
from seqformer.model.graph_convolution import use_graph_convolutions
from seqformer.model.one_graph import frames_as_one_graph

CPU = torch.device("cpu")
SIZES = [(2, 64, 96), (3, 72, 100), (5, 61, 83), (10, 90, 90), (7, 48, 80)]
SIZES += [(2, 80, 48), (4, 100, 64), (3, 66, 97), (9, 40, 72), (6, 77, 77)]
"""Frames, height, width of ten clips."""


@pytest.fixture(autouse=True)
def nothing_compiled():
    # Its trace, which pytest would keep and format, costs more than the compiler.
    trace = logging.getLogger("torch.__trace")
    trace.disabled = True
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    trace.disabled = False


def outputs(output):
    tensors = {field.name: getattr(output, field.name) for field in fields(output)}
    return {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(
    ("mode", "is_padded"),
    [
        pytest.param(torch.no_grad, True, marks=pytest.mark.slow),
        (torch.inference_mode, False),
        (nullcontext, True),
    ],
)
def test_model_is_one_graph(mode, is_padded, monkeypatch):
    # A graph has the plain formulas, to which the blocks on few rows are equal up to rounding.
    monkeypatch.setattr(kernels.few_rows, "fits", lambda *_: False)
    model = own_model_of(TINY, CPU).train(mode is nullcontext)
    padding = padding_and_targets(TINY, CPU)[0] if is_padded else None
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with mode():
        ours, eager = (outputs(m(video(TINY, CPU), padding)) for m in (compiled, model))
    assert ours.keys() == eager.keys()
    for name, value in eager.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0, msg=name)
    if mode is not nullcontext:
        return
    gradients = [
        torch.autograd.grad(
            sum(value.square().mean() for value in each.values() if value.requires_grad),
            [p for p in model.parameters() if p.requires_grad],
            allow_unused=True,
        )
        for each in (ours, eager)
    ]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_frames_of_any_size_and_number_share_a_graph():
    model = own_model_of(TINY, CPU).eval()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    generator = torch.Generator().manual_seed(0)
    for frames, height, width in (*SIZES, (1, 90, 90)):
        clip = torch.randn(1, frames, 3, height, width, generator=generator)
        with torch.no_grad():
            got, expected = outputs(compiled(clip)), outputs(model(clip))
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, msg=name)
    assert len(graphs) <= 2  # at most two recompilations are allowed; T = 1 takes one


def without_dropout(model):
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            vars(module)["dropout"] = 0.0
    return model


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, nullcontext])
def test_inductor_takes_frames_of_any_size_and_number(mode):
    is_step = mode is nullcontext
    size = replace(TINY, overrides=(*TINY.overrides, ("num_decoder_layers", 1 + is_step)))
    model = without_dropout(own_model_of(size, CPU)).train(is_step)
    trained = [p for p in model.parameters() if p.requires_grad]
    compiled = frames_as_one_graph(model, model.forward)
    torch._dynamo.utils.counters.clear()
    generator = torch.Generator().manual_seed(0)
    for frames, height, width in SIZES:
        clip = torch.randn(1, frames, 3, height, width, generator=generator)
        with mode():
            ours, eager = (outputs(m(clip)) for m in (compiled, model))
        for name, value in eager.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-4, msg=name)
        if not is_step:
            continue
        gradients = [
            torch.autograd.grad(
                sum(value.square().mean() for value in each.values() if value.requires_grad),
                trained,
                allow_unused=True,
            )
            for each in (ours, eager)
        ]
        for got, expected in zip(*gradients, strict=True):
            assert (got is None) == (expected is None)
            if expected is not None:
                atol = 1e-4 * max(1.0, expected.abs().max().item())
                torch.testing.assert_close(got, expected, rtol=1e-3, atol=atol)
    # Inductor sums more than 4,096 numbers by another routine, and compiles anew for it.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


@pytest.mark.slow
@pytest.mark.parametrize("is_own", [True, False])
def test_only_our_convolutions_keep_a_backward_pass_open_to_any_size(is_own):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
    if is_own:
        use_graph_convolutions(model)
    options = {"layout_optimization": False}
    compiled = torch.compile(model, fullgraph=True, dynamic=True, options=options)
    torch._dynamo.utils.counters.clear()
    for shape in ((2, 3, 32, 48), (3, 3, 40, 50), (5, 3, 33, 47), (20, 3, 60, 30)):
        x = torch.randn(shape)
        ours, eager = (
            torch.autograd.grad(m(x).square().mean(), list(model.parameters()))
            for m in (compiled, model)
        )
        torch.testing.assert_close(ours, eager)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 1 if is_own else graphs > 1  # when both are 1, torch needs none of ours
