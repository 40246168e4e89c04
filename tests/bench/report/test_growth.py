"""Lines through growth curves, and the sentences computed from them."""

from __future__ import annotations

import pytest

from bench.report import growth
from bench.report.history import load
from tests.bench.report.fabricated_records import CPU, case, fabricate, write


def curves_of(tmp_path, chosen):
    made = fabricate(CPU, 1, 1, noise=1e-6, chosen=chosen)
    return growth.curves(load(write(tmp_path, made)).newest(CPU["device"]).values())


def along_frames(cost, frames=(2, 5, 10, 20), **fixed):
    return [
        (
            case(f"step T={T} {fixed}", "step", "growth", along="T", shapes={"T": T, **fixed}),
            *cost(T),
        )
        for T in frames
    ]


def test_a_line_is_recovered_with_its_fixed_share(tmp_path):
    [curve] = curves_of(tmp_path, along_frames(lambda T: (1 + 0.5 * T, 100 + 20 * T, 2)))
    line, memory = (
        growth.fit(curve.x, curve.seconds["ours"]),
        growth.fit(curve.x, curve.mib["ours"]),
    )
    assert (line.slope, line.intercept) == pytest.approx((0.5, 1.0), rel=1e-3)
    assert (memory.slope, memory.intercept) == pytest.approx((20, 100), rel=1e-3)
    assert line.r2 == pytest.approx(1, abs=1e-4) and line.deviation < 1e-3
    facts = "; ".join(growth.facts(curve))
    assert "1.00 s, is 50 % of the time at 2 and 9.1 % at 20" in facts
    assert "from 2 to 20, 5.50 times the time (power 0.74)" in facts


def test_growth_beyond_linear_is_said_so(tmp_path):
    [curve] = curves_of(tmp_path, along_frames(lambda T: (0.01 * T**2, 10, 2)))
    line = growth.fit(curve.x, curve.seconds["ours"])
    assert line.deviation > 0.2
    facts = "; ".join(growth.facts(curve))
    assert "starts below zero" in facts and "power 2.00" in facts


def test_curves_of_different_shapes_are_apart_and_resolutions_together(tmp_path):
    cost = lambda T: (float(T), 10, 2)  # noqa: E731
    chosen = along_frames(cost, H=192) + along_frames(cost, H=360)
    chosen += [
        (
            case(
                f"step {h}x{w}",
                "step",
                "growth",
                along="HW",
                shapes={"T": 5, "H": h, "W": w, "HW": h * w},
            ),
            t,
            1,
            2,
        )
        for h, w, t in ((192, 320, 1.0), (360, 640, 3.75), (480, 768, 6.0))
    ]
    found = curves_of(tmp_path, chosen)
    assert [curve.along for curve in found] == ["T", "T", "HW"]
    assert found[2].x == [192 * 320, 360 * 640, 480 * 768]
    assert growth.fit(found[2].x, found[2].seconds["ours"]).deviation < 0.01


def test_one_point_is_no_curve(tmp_path):
    assert not curves_of(tmp_path, along_frames(lambda T: (1.0, 1, 2), frames=(5,)))


def test_a_curve_from_zero_has_no_power(tmp_path):
    chosen = [
        (case(f"step N={N}", "step", "growth", along="N", shapes={"N": N}), 1 + 0.1 * N, 10, 2)
        for N in (0, 10, 30)
    ]
    [curve] = curves_of(tmp_path, chosen)
    facts = "; ".join(growth.facts(curve))
    assert facts.startswith("from 0 to 30, 4.00 times the time; the line's fixed cost, 1.00 s, is")


def test_a_flat_curve_and_a_proportional_one_are_said_so(tmp_path):
    flat, straight = curves_of(
        tmp_path,
        along_frames(lambda T: (1 + 1e-3 * T, 10, 2))
        + along_frames(lambda T: (0.1 * T, 10, 2), H=1),
    )
    assert growth.facts(flat)[0].endswith("next to nothing depends on it")
    assert "proportional" in "; ".join(growth.facts(straight))
