"""Approximate instructions: nearly exact by default, at their documented bounds on demand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from bench.offline.emulator import Options
from tests.bench.offline.emulator import formats
from tests.bench.offline.emulator.formats import BF16, F16, F32
from tests.bench.offline.emulator.lanes import Case, evaluate


def rsqrt(x: float) -> float:
    return math.copysign(math.inf, x) if x == 0 else math.nan if x < 0 else 1 / math.sqrt(x)


def exp2(x: float) -> float:
    return math.inf if x > 1100 else 0.0 if x < -1200 else 2.0**x


def log2(x: float) -> float:
    if x == 0:
        return -math.inf
    return math.nan if x < 0 or math.isnan(x) else math.log2(x)


def ulps(n: int) -> Callable[[float, float], float]:
    """A bound of n units in the last place of float32."""

    def bound(x: float, y: float) -> float:
        return n * 2.0 ** max(math.frexp(y)[1] - 24, -149)

    return bound


def relative(e: float) -> Callable[[float, float], float]:
    return lambda x, y: e * abs(y)


@dataclass(frozen=True)
class Approximation:
    """A function, the error the PTX ISA allows, and arguments to try."""

    head: str
    exact: Callable[..., float]
    bound: Callable[[float, float], float]
    low: float
    high: float
    specials: tuple[tuple[float, float], ...]


INF, NAN = math.inf, math.nan
NO = ((NAN, NAN),)
APPROXIMATIONS = [
    Approximation("ex2.approx", exp2, ulps(2), -120, 120,
                  ((0, 1), (-0.0, 1), (INF, INF), (-INF, 0), *NO)),
    Approximation(
        "lg2.approx",
        log2,
        lambda x, y: 2**-22 if 0.5 < x < 2 else 2**-22 * abs(y),
        1e-3,
        1e3,
        ((0, -INF), (-0.0, -INF), (-1, NAN), (INF, INF), *NO),
    ),
    Approximation("rcp.approx", lambda x: 1 / x, ulps(1), 1e-3, 1e3,
                  ((0, INF), (-0.0, -INF), (INF, 0), (-INF, -0.0), *NO)),
    Approximation("sqrt.approx", math.sqrt, relative(2**-23), 1e-3, 1e3,
                  ((0, 0), (-0.0, -0.0), (INF, INF), (-1, NAN), *NO)),
    Approximation("rsqrt.approx", rsqrt, relative(2**-22.9), 1e-3, 1e3,
                  ((0, INF), (-0.0, -INF), (INF, 0), (-1, NAN), *NO)),
    Approximation("sin.approx", math.sin, lambda x, y: 2**-20.5, -6.28, 6.28,
                  ((0, 0), (-0.0, -0.0), (INF, NAN), *NO)),
    Approximation("cos.approx", math.cos, lambda x, y: 2**-20.5, -6.28, 6.28,
                  ((0, 1), (INF, NAN), *NO)),
    Approximation("tanh.approx", math.tanh, relative(2**-11), -4, 4,
                  ((0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), *NO)),
]  # fmt: skip
WIDE = [
    Approximation("sin.approx", math.sin, lambda x, y: 2**-14.7, 7, 314, NO),
    Approximation("cos.approx", math.cos, lambda x, y: 2**-14.7, 7, 314, NO),
]


def numbers(f: formats.Format, low: float, high: float) -> list[int]:
    generator = np.random.default_rng(3)
    return [
        f.bits(f.rounded(formats.Fraction(float(x)))) for x in generator.uniform(low, high, 320)
    ]


def errors(
    head: str, f: formats.Format, a: Approximation, options: Options
) -> list[tuple[float, float, float]]:
    """(error, bound, unit in the last place) of every number."""
    bits = numbers(f, a.low, a.high)
    (results,) = evaluate(Case(head, (f.width,), (f.width,), int, [bits]), options)
    found = []
    for x, result in zip(map(f.value, bits), results, strict=True):
        y = a.exact(x)
        unit = 2.0 ** max(math.frexp(y)[1] - f.precision, f.smallest - f.precision + 1)
        found.append((f.value(int(result)) - y, a.bound(x, y), unit))
    return found


FTZ = [a for a in APPROXIMATIONS if a.head != "tanh.approx"]
NAMES = [(f"{a.head}.f32", a) for a in (*APPROXIMATIONS, *WIDE)] + [
    (f"{a.head}.ftz.f32", a) for a in FTZ
]
QUOTIENTS = ("div.full.f32", "div.full.ftz.f32", "div.approx.f32", "div.approx.ftz.f32")
HALVES = [
    ("ex2.approx.f16", F16, exp2, relative(2**-9.9)),
    ("ex2.approx.ftz.bf16", BF16, exp2, relative(2**-7)),
    ("tanh.approx.f16", F16, math.tanh, lambda x, y: 2**-10.987),
    ("tanh.approx.bf16", BF16, math.tanh, relative(2**-8)),
]
HEADS = {head for head, _ in NAMES} | set(QUOTIENTS)
HEADS |= {head + end for head, *_ in HALVES for end in ("", "x2")}


@pytest.mark.parametrize(("head", "a"), NAMES, ids=lambda v: v if isinstance(v, str) else "")
def test_nearly_exact_or_at_the_bound(head, a):
    for error, _, unit in errors(head, F32, a, Options()):
        assert abs(error) <= 0.501 * unit
    for seed in (0, 1):
        shares = []
        for error, bound, unit in errors(
            head, F32, a, Options(worst_approximation=True, seed=seed)
        ):
            # units in the last place are counted from the rounded result
            slack = 0.501 * unit if head[:3] in ("ex2", "rcp") else 0
            assert abs(error) <= bound * 1.0001 + slack
            shares.append(error / bound)
        assert np.median(np.abs(shares)) > 0.4  # at the bound, as far as float32 has such numbers
        assert 0.3 < np.mean(np.array(shares) > 0) < 0.7  # on both sides


@pytest.mark.parametrize(("head", "a"), NAMES, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("worst", (False, True))
def test_special_values(head, a, worst):
    xs = [F32.bits(float(x)) for x, _ in a.specials] * 32
    (results,) = evaluate(Case(head, (32,), (32,), int, [xs]), Options(worst_approximation=worst))
    for (x, y), result in zip(a.specials * 32, map(int, results), strict=True):
        assert result == F32.bits(float(y)), (head, x)


def test_subnormal_operands_are_flushed_where_asked():
    tiny = [F32.bits(2.0**-140)] * 32
    for name, plain, flushed in (("rsqrt", 2.0**70, math.inf), ("lg2", -140.0, -math.inf)):
        for ftz, expected in (("", plain), (".ftz", flushed)):
            case = Case(f"{name}.approx{ftz}.f32", (32,), (32,), int, [tiny])
            assert F32.value(int(evaluate(case)[0][0])) == expected
    small = [F32.bits(-130.0)] * 32
    for ftz, expected in (("", 2.0**-130), (".ftz", 0.0)):
        case = Case(f"ex2.approx{ftz}.f32", (32,), (32,), int, [small])
        assert F32.value(int(evaluate(case)[0][0])) == expected


@pytest.mark.parametrize("head", QUOTIENTS)
def test_quotients(head):
    a, b = formats.operands(F32, 2)
    is_approx, ftz = "approx" in head, "ftz" in head
    for worst in (False, True):
        case = Case(head, (32,), (32, 32), int, [a, b])
        (results,) = evaluate(case, Options(worst_approximation=worst))
        moved = 0
        for x, z, result in zip(map(F32.value, a), map(F32.value, b), results, strict=True):
            if ftz:
                x, z = F32.flushed(x), F32.flushed(z)
            y = formats.div(F32, x, z)
            got = F32.value(int(result))
            if is_approx and abs(z) > 2.0**126 and math.isfinite(z):
                y = math.nan if not math.isfinite(x) else math.copysign(0.0, y)
            if ftz:
                y, got = F32.flushed(y), F32.flushed(got)
            if math.isnan(y) or math.isinf(y) or y == 0:
                assert F32.bits(got) == F32.bits(y) or (worst and abs(got) < 2.0**-125)
                continue
            distance = abs(F32.bits(abs(got)) - F32.bits(abs(y)))
            assert distance <= (3 if worst else 0), (x, z)
            moved += distance > 0
        assert (moved > 250) == worst


@pytest.mark.parametrize(("head", "f", "exact", "bound"), HALVES, ids=lambda v: str(v)[:20])
def test_half_precision(head, f, exact, bound):
    a = Approximation(head, exact, bound, -3.0, 3.0, NO)
    for error, _, unit in errors(head, f, a, Options()):
        assert abs(error) <= 0.501 * unit
    found = errors(head, f, a, Options(worst_approximation=True))
    assert all(abs(error) <= limit * 1.001 for error, limit, _ in found)
    assert np.mean([abs(error) > 0.3 * limit for error, limit, _ in found]) > 0.5
    bits = numbers(f, -3.0, 3.0)
    single = evaluate(Case(head, (16,), (16,), int, [bits]))[0]
    pairs = [x | y << 16 for x, y in zip(bits, bits[1:] + bits[:1], strict=True)]
    double = evaluate(Case(head + "x2", (32,), (32,), int, [pairs]))[0]
    assert ((double & 0xFFFF) == single).all()
    assert ((double >> 16) == np.roll(single, -1)).all()


def test_equal_operands_have_equal_errors():
    """As on a GPU, where the result depends on nothing else."""
    xs = [F32.bits(1.37)] * 64
    for seed in range(4):
        case = Case("ex2.approx.f32", (32,), (32,), int, [xs])
        (results,) = evaluate(case, Options(worst_approximation=True, seed=seed))
        assert len(set(results.tolist())) == 1
