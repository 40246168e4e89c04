"""The rule that names a slower or larger case, on fabricated records."""

from __future__ import annotations

import pytest

from bench.report.regression_rule import compare, is_slower, typical_noise
from tests.bench.report.fabricated_records import CPU, GPU, MIB, cases, fabricate

SEEDS = range(8)


def by_case(old, new, kind):
    rows = {row["name"]: row for row in old["cases"]}
    typical = max(typical_noise(made["cases"], kind) for made in (old, new))
    return {row["name"]: compare(rows[row["name"]], row, kind, typical) for row in new["cases"]}


def named(old, new, kind):
    return {name for name, found in by_case(old, new, kind).items() if found.is_slower}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("machine", "load"), [(CPU, 3.0), (GPU, 1.0)], ids=["cpu", "gpu"])
def test_a_planted_slowdown_is_named_and_nothing_else(machine, load, seed):
    name = cases()[seed % len(cases())][0].name
    noise = 0.02 if machine is CPU else 0.03
    old = fabricate(machine, 1, 100 + seed, noise=noise)
    new = fabricate(machine, 2, 200 + seed, noise=noise, load=load, slowdowns={name: 1.2})
    assert named(old, new, machine["kind"]) == {name}


@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
def test_noise_alone_is_not_named(machine):
    """Medians of a noisy machine move by several percent; quantiles are as wide."""
    moved = 0
    for seed in range(20):
        old, new = (fabricate(machine, 1, 1000 * s + seed, noise=0.05) for s in (1, 2))
        found = by_case(old, new, machine["kind"])
        moved += sum(abs(c.time - 1) > 0.05 for c in found.values())
        assert not [name for name, c in found.items() if c.is_slower or c.is_larger]
    assert moved > 5 or machine is GPU, "the noise was too small to test anything"


def test_a_busy_cpu_is_not_named_but_a_busy_gpu_is():
    for machine, expected in ((CPU, 0), (GPU, len(cases()))):
        old, new = (fabricate(machine, 1, s, noise=0.02, load=s) for s in (1, 2))
        assert len(named(old, new, machine["kind"])) == expected


def test_an_improvement_is_not_named():
    slowdowns = {case.name: 0.7 for case, *_ in cases()}
    old, new = fabricate(GPU, 1, 1), fabricate(GPU, 2, 2, slowdowns=slowdowns)
    assert not named(old, new, "cuda")


def test_a_small_slowdown_within_five_percent_is_not_named():
    slowdowns = {case.name: 1.04 for case, *_ in cases()}
    old, new = (
        fabricate(GPU, 1, s, noise=0.001, slowdowns=d) for s, d in ((1, {}), (2, slowdowns))
    )
    assert not named(old, new, "cuda")


def test_a_missing_baseline_is_an_obstacle_on_a_cpu_alone():
    for machine in (CPU, GPU):
        old, new = fabricate(machine, 1, 1), fabricate(machine, 2, 2, sides=("ours",))
        found = by_case(old, new, machine["kind"])
        obstacles = {c.obstacle for c in found.values()}
        if machine is CPU:
            assert obstacles == {"the baseline, published, was not measured beside it"}
            assert not any(c.is_slower for c in found.values())
        else:
            assert obstacles == {None}


def test_cases_that_changed_are_not_compared():
    old, new = fabricate(GPU, 1, 1), fabricate(GPU, 2, 2)
    new["cases"][0]["shapes"] = {"T": 36}
    assert by_case(old, new, "cuda")[new["cases"][0]["name"]].obstacle == "its shapes changed"


@pytest.mark.parametrize(("mib", "expected"), [(1.04, False), (1.06, True)])
def test_memory_is_named_beyond_five_percent(mib, expected):
    old, new = fabricate(CPU, 1, 1), fabricate(CPU, 2, 2)
    row = new["cases"][0]
    row["sides"]["ours"]["peak_bytes"] = int(mib * row["sides"]["ours"]["peak_bytes"])
    found = by_case(old, new, "cpu")
    assert found[row["name"]].is_larger is expected
    assert sum(c.is_larger for c in found.values()) == expected


def test_peaks_of_two_methods_are_not_compared():
    old, new = fabricate(CPU, 1, 1), fabricate(CPU, 2, 2)
    row = new["cases"][0]
    row["sides"]["ours"] |= {"peak_bytes": 2 * row["sides"]["ours"]["peak_bytes"]}
    assert by_case(old, new, "cpu")[row["name"]].is_larger
    row["sides"]["ours"]["peak_method"] = "another"
    found = by_case(old, new, "cpu")[row["name"]]
    assert (found.memory, found.is_larger) == (None, False)


def test_less_than_a_mebibyte_is_not_named():
    old, new = fabricate(CPU, 1, 1), fabricate(CPU, 2, 2)
    for made, peak in ((old, MIB), (new, 1.9 * MIB)):
        made["cases"][0]["sides"]["ours"]["peak_bytes"] = int(peak)
    assert not by_case(old, new, "cpu")[new["cases"][0]["name"]].is_larger


def test_five_rounds_that_happen_to_agree_prove_little():
    before, after = [1.0, 1.0, 1.0, 1.001, 1.001], [1.07, 1.07, 1.07, 1.071, 1.071]
    assert is_slower(before, after)
    assert not is_slower(before, after, typical=0.05)


def test_overlapping_quantiles_are_not_named():
    before, after = [1.0] * 25 + [1.3] * 15, [1.1] * 40
    assert is_slower([1.0] * 40, after)
    assert not is_slower(before, after)
