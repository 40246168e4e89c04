"""Low precision where it is safe, and float32 where coordinates are made."""

from statistics import median

import pytest
import torch
from torch.nn.functional import cosine_similarity

from seqformer.distributed.context import DistributedContext
from seqformer.trainer.nonfinite_steps import (
    MAX_OVERFLOWS,
    NonFiniteLossError,
    NonFiniteStep,
    NonFiniteSteps,
)
from seqformer.trainer.precision import Precision
from tests.trainer.one_step import build_step, gradients, take_step

ONE = DistributedContext()
WIDE = {"num_levels": 3, "hidden_dim": 64}
"""Without the coarsest level, whose GroupNorm over two cells is no function for low precision."""


def flat(step):
    return torch.cat([g.flatten() for g in gradients(step).values()])


def build(precision, parallel=ONE, mode="none", **changes):
    return build_step(parallel, mode, precision=precision, dtype=torch.float32, **WIDE, **changes)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_gradients_point_where_float32_ones_do(precision):
    """Of three batches the middle one: the model has kinks, and rounding may cross one; beyond it a
    gradient points elsewhere. What computes the operators, C or PyTorch, makes no difference.
    """
    cosines = []
    for number in range(3):
        exact, low = build("fp32"), build(precision)
        if precision == "fp16":
            scaler = low.precision.scaler
            scaler.load_state_dict(scaler.state_dict() | {"scale": 64.0})
        expected, got = (take_step(step, 1, clips=2, number=number) for step in (exact, low))
        assert got["skipped"] == 0
        assert got["loss"] == pytest.approx(expected["loss"], rel=1e-2)
        assert got["grad_norm"] == pytest.approx(expected["grad_norm"], rel=5e-2)
        cosines.append(float(cosine_similarity(flat(low), flat(exact), dim=0)))
    assert median(cosines) > 0.995 and min(cosines) > 0.95, cosines
    assert {p.dtype for p in low.parallel_model.model.parameters()} == {torch.float32}


def output(step):
    images = torch.randn(1, 2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), step.precision.autocast():
        return step.parallel_model.forward(images)


def test_what_makes_coordinates_stays_float32():
    exact, low = output(build("fp32")), output(build("bf16"))
    for name in ("class_logits", "boxes", "mask_params", "reference_points"):
        assert getattr(low, name).dtype == torch.float32, name
    # Half a bf16 step at 0.5 is 1e-3, and as much again is lost in the features.
    assert (low.boxes - exact.boxes).abs().max() < 2e-3
    # References of the first layer are exact: nothing before them is low precision.
    assert torch.equal(low.reference_points[0], exact.reference_points[0])


def test_loss_scale_is_found_by_skipping_steps_that_are_not_counted(tmp_path):
    step = build("fp16")
    scaler = step.precision.scaler
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**22})
    skipped = [take_step(step, 1, clips=2)["skipped"] for _ in range(16)]
    assert skipped[0] == 1.0 and skipped[-1] == 0.0 and scaler.get_scale() < 2.0**22
    overflow = NonFiniteStep(3, "the gradient is not finite", ["clip"], is_loss_finite=True)
    nonfinite_steps = NonFiniteSteps(tmp_path, 0, is_main=True, scales_loss=True)
    nonfinite_steps.take_note([overflow] * MAX_OVERFLOWS, 0)
    assert nonfinite_steps.count == 0
    with pytest.raises(NonFiniteLossError):  # no scale helps
        nonfinite_steps.take_note([overflow], 0)


def low_precision_losses(parallel):
    losses = {}
    for mode in ("ddp", "fsdp"):
        for precision in ("bf16", "fp16"):
            step = build(precision, parallel, mode)
            if precision == "fp16":
                scaler = step.precision.scaler
                scaler.load_state_dict(scaler.state_dict() | {"scale": 64.0})
            losses[mode, precision] = [take_step(step, 1, clips=2)["loss"] for _ in range(2)]
            references = output_references(step)
            assert references.dtype == torch.float32
    return losses


def output_references(step):
    images = torch.zeros(1, 2, 3, 32, 64)
    with torch.no_grad(), step.precision.autocast():
        return step.parallel_model.forward(images).reference_points


@pytest.mark.distributed
def test_sharded_low_precision_trains_like_ddp(lasting_processes):
    """FSDP gathers backbone stages in the low format; all else stays float32."""
    first, second = lasting_processes.run(2, low_precision_losses)
    assert first == second
    for precision in ("bf16", "fp16"):
        assert first["fsdp", precision] == pytest.approx(first["ddp", precision], rel=2e-2)


def test_bf16_on_a_gpu_without_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated=True: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.raises(ValueError, match="Tesla V100 does not compute in bf16; use fp16"):
        Precision("bf16", torch.device("cuda", 0))
