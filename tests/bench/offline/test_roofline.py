"""Peaks and floors: numbers worked out by hand, and what binds."""

from __future__ import annotations

import pytest

from bench.offline.roofline import DEVICES, attention_rows, device_named, floors, runs_on

V100, A100, _, H100, H200 = DEVICES
ENCODER = {"T": 10, "Q": 7656, "S": 7656, "C": 256, "M": 8, "L": 4, "P": 4}
"""480x768, 10 frames."""


def row(op="other", direction="forward", dtype="float32", shapes=None, **cost):
    cost = {"bytes": None, "flops": None, "half_flops": 0} | cost
    return {"op": op, "direction": direction, "dtype": dtype, "shapes": shapes or {}} | cost


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA H200", H200),
        ("NVIDIA H100 80GB HBM3", H100),
        ("Tesla V100-SXM2-32GB", V100),
        ("NVIDIA A100-SXM4-40GB", A100),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA H100 PCIe", None),
        ("AMD EPYC", None),
    ],
)
def test_devices_are_known_by_the_hardwares_name(name, device):
    assert device_named(name) is device


def test_bytes_or_arithmetic_bind():
    floor = floors(row(bytes=2 * 10**9, flops=10**9), V100)
    assert floor.kind == "memory"
    assert floor.seconds == pytest.approx(2 / 900)
    floor = floors(row(bytes=1, flops=157 * 10**9), V100)
    assert (floor.kind, floor.seconds) == ("arithmetic", pytest.approx(0.01))


def test_tensor_cores_take_their_share_at_their_rate():
    work = {"flops": 4 * 10**12, "half_flops": 3 * 10**12}
    for dtype, rate in (("bfloat16", 312e12), ("float32", 156e12)):
        seconds = floors(row(dtype=dtype, **work), A100).seconds
        assert seconds == pytest.approx(3e12 / rate + 1e12 / 19.5e12)


def test_a_case_without_cost_has_no_floor():
    assert floors(row(), H200) is None


def test_rows_of_attention():
    assert attention_rows(ENCODER) == 612_480
    assert attention_rows({"B": 2, "T": 5, "Q": 300, "M": 8}) == 24_000
    assert attention_rows({"T": 10, "S": 7656, "M": 8}) == 612_480
    assert attention_rows({"N": 10}) is None


@pytest.mark.parametrize(
    ("device", "microseconds"), [(V100, (305, 320, 185)), (A100, (176, 257, 149))]
)
def test_floors_of_an_encoder_layer_forward(device, microseconds):
    """274 MB moved, 612k rows of 64 corners of 128 bytes, 2.9 GFLOP."""
    parts = floors(
        row("msda encoder", shapes=ENCODER, bytes=274_400_000, flops=2_900_000_000), device
    ).parts
    found = [1e6 * parts[kind] for kind in ("memory", "l1 gather", "arithmetic")]
    assert found == pytest.approx(microseconds, rel=0.01)
    # About 310 instructions a row over four schedulers.
    slots = 4 * device.multiprocessors * device.clock
    assert parts["issue"] == pytest.approx(612_480 * 310 / slots, rel=0.03)
    assert "atomics" not in parts


def test_atomics_bind_backward_and_count_once_in_both():
    forward, backward, both = (
        floors(row("msda encoder", d, shapes=ENCODER, bytes=627_000_000), A100)
        for d in ("forward", "backward", "both")
    )
    assert backward.kind == both.kind == "atomics"
    assert backward.seconds == pytest.approx(1390e-6, rel=0.01)
    assert both.seconds == backward.seconds
    for kind in ("issue", "l1 gather"):
        assert both.parts[kind] == pytest.approx(forward.parts[kind] + backward.parts[kind])


def test_half_precision_halves_the_gather_but_not_the_instructions():
    single, half = (
        floors(row("msda encoder", dtype=d, shapes=ENCODER, bytes=1), H200)
        for d in ("float32", "bfloat16")
    )
    assert half.parts["l1 gather"] == pytest.approx(single.parts["l1 gather"] / 2)
    assert half.parts["issue"] > 0.7 * single.parts["issue"]
    assert half.kind == "issue"


def test_measured_ceilings_replace_assumed_ones():
    ceilings = {"l1_gather_gb_s": 1000.0, "float_adds_g_s": 500.0}
    parts = floors(row("msda encoder", "backward", shapes=ENCODER, bytes=1), H200, ceilings).parts
    assert parts["l1 gather"] == pytest.approx(612_480 * 64 * 128 / 1e12)
    assert parts["atomics"] == pytest.approx(612_480 * 64 * 32 / 500e9)


def test_bfloat16_is_not_native_on_a_v100():
    assert not runs_on(row(dtype="bfloat16"), V100)
    assert runs_on(row(dtype="float16"), V100)
    assert runs_on(row(dtype="bfloat16"), A100)
