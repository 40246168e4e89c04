"""The mask head's modelled memory traffic: what it is made of, and how near it is to the least."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

import kernels
from kernels.mask_head.inputs import MaskHeadConfig, MaskHeadInputs
from kernels.mask_loss.inputs import LossTargets

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

SEQFORMER = MaskHeadConfig(8, 8, 3, True, 2, 8)
MIB = 1 << 20
L2 = {70: 6 * MIB, 75: 4 * MIB, 80: 40 * MIB, 89: 48 * MIB, 90: 50 * MIB, 100: 126 * MIB}
"""V100, T4, A100, L4, H100 and B200."""
BOUND = 1.3
DTYPES = (torch.float32, torch.float16)
FRAMES = ((60, 96), (45, 80))
"""Cells of 480x768 and 360x640."""


def training(dtype, cells, **options):
    """Ten matched queries of each of six decoder layers."""
    from bench.mask_traffic import Sizes

    return Sizes(
        clips=1, frames=5, instances=60, height=cells[0], width=cells[1], dtype=dtype,
        targets=10, **options,
    )  # fmt: skip


@pytest.mark.parametrize("cells", FRAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_traffic_is_near_the_least_in_training(dtype, cells):
    from bench import mask_traffic as traffic

    sizes = training(dtype, cells)
    for capability, l2 in L2.items():
        for launches, least in (
            (traffic.forward(SEQFORMER, sizes), traffic.least_forward),
            (traffic.loss_forward(SEQFORMER, sizes, capability), traffic.least_loss_forward),
            (traffic.backward(SEQFORMER, sizes, capability), traffic.least_backward),
        ):
            assert traffic.moved(launches, l2) <= BOUND * least(SEQFORMER, sizes)


def test_a_cache_too_small_for_what_lies_between_is_counted():
    from bench import mask_traffic as traffic

    launches = traffic.backward(SEQFORMER, training(torch.float32, FRAMES[0]))
    enough = 2 * launches[0].between
    more = traffic.moved(launches, enough - 2) - traffic.moved(launches, enough)
    assert more >= launches[0].reads["gradient"]
    assert enough < min(L2.values())


def test_losses_move_less_than_logits():
    """The gradient of cells is stored: four times the least, but a quarter of the logits' form."""
    from bench import mask_traffic as traffic

    for cells in FRAMES:
        sizes = training(torch.float32, cells)
        losses = traffic.loss_forward(SEQFORMER, sizes) + traffic.loss_backward(SEQFORMER, sizes)
        logits = traffic.forward(SEQFORMER, sizes) + traffic.backward(SEQFORMER, sizes)
        assert traffic.moved(losses, L2[90]) <= 0.3 * traffic.moved(logits, L2[90])


@pytest.mark.parametrize("with_losses", [False, True])
def test_model_counts_the_tensors_of_the_launches(with_losses, monkeypatch):
    """Against what the launchers are given, launch by launch."""
    from bench import mask_traffic
    from kernels.mask_head import launch as head_launch
    from kernels.mask_loss import launch as loss_launch

    launched = []

    def run(launch, programs, device, *arguments):
        names = launch.variant.kernel.arg_names
        launched.append(dict(zip(names, arguments, strict=False)))

    monkeypatch.setattr(kernels.launch.Launch, "run", run)
    B, T, N, M, h, w = 2, 3, 5, 4, 9, 13
    inputs = MaskHeadInputs(
        torch.zeros(B, T, 8, h, w), torch.zeros(N, 169), torch.zeros(N, T, 2),
        torch.zeros(N, dtype=torch.long),
    )  # fmt: skip
    sizes = mask_traffic.Sizes(clips=B, frames=T, instances=N, height=h, width=w, targets=M)
    if with_losses:
        targets = torch.zeros(M, T, 2 * h, 2 * w, dtype=torch.uint8)
        loss = LossTargets(targets, torch.zeros(N, dtype=torch.long), 1, 0.25, 2.0)
        loss_launch.forward(inputs, SEQFORMER, loss)
        loss_launch.backward(torch.zeros(N, 4), inputs, SEQFORMER, loss, [True, True])
        model = mask_traffic.loss_forward(SEQFORMER, sizes)[:1]
        model += mask_traffic.loss_backward(SEQFORMER, sizes)
    else:
        head_launch.forward(inputs, SEQFORMER)
        grad = torch.zeros(N, T, 2 * h, 2 * w)
        head_launch.backward(grad, inputs, SEQFORMER, [True, True])
        model = mask_traffic.forward(SEQFORMER, sizes)
        model += mask_traffic.backward(SEQFORMER, sizes)
    other_names = {"out": "logits", "grad": "gradient", "parameters": "params"}
    assert len(launched) == len(model)
    for given, launch in zip(launched, model, strict=True):
        found = {
            other_names.get(name, name): value.nbytes
            for name, value in given.items()
            if isinstance(value, torch.Tensor) and name != "target_index"
        }
        assert launch.reads | launch.writes == found, launch.name
