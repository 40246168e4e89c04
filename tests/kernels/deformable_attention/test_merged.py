"""The backward of deformable attention that merges adds, interpreted, against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.suite.problems.deformable_attention import Problem, compare, launch, rounded, run
from kernels.device import DeviceFacts, replaced

pytest.importorskip("triton")

SMALL = {"shapes": ((3, 4), (1, 2)), "B": 1, "M": 1, "Q": 5}
"""Few programs: the interpreter takes a tenth of a second for each."""

SIZES = st.integers(1, 6)
PROBLEMS = st.builds(
    Problem,
    shapes=st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=3).map(tuple),
    B=st.integers(1, 2),
    Q=st.integers(1, 9),
    M=st.integers(1, 2),
    D=st.sampled_from([8, 16, 32]),
    P=st.integers(1, 5),
    kind=st.sampled_from([0, 2, 4]),
    is_padded=st.booleans(),
    seed=st.integers(0, 2**16),
    spread=st.sampled_from([0.1, 0.4, 3.0, 1e6]),
)


def table():
    return launch.tiles


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Adds are merged for problems of any size; the test fails if they never were."""
    monkeypatch.setattr(table(), "MERGED_ROWS", 0)
    monkeypatch.setattr(table(), "MERGED_SAMPLES", 0)
    calls, original = [], launch.launch_merged.backward

    def noted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(launch.launch_merged, "backward", noted)
    yield calls
    assert calls


def frozen(kind):
    """The reference, of which no gradient is asked."""
    return (3,) * (kind > 0)


@settings(max_examples=8, deadline=None)
@given(problem=PROBLEMS)
def test_gradients_equal_the_reference(problem):
    compare("triton", problem, frozen=frozen(problem.kind))


@pytest.mark.parametrize("kind", [0, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(kind, dtype):
    problem = Problem(kind=kind, is_padded=kind > 0, **SMALL)
    compare("triton", problem, dtype, dtype, frozen=frozen(kind))


@pytest.mark.parametrize("D", [8, 64, 256])
def test_heads_of_other_widths(D):
    compare("triton", Problem(D=D, **SMALL), frozen=(3,))


@pytest.mark.parametrize("capability", [80, 90])
def test_layout_of_every_table_entry(capability):
    facts = DeviceFacts()
    facts.capability = lambda device: capability
    with replaced(facts):
        compare("triton", Problem(D=32, **SMALL), frozen=(3,))


@pytest.mark.parametrize("kind", [2, 4])
def test_images_share_queries_references_and_padding(kind):
    problem = Problem(**SMALL | {"B": 4}, share=2, kind=kind, is_padded=True)
    compare("triton", problem, frozen=(3,))


@pytest.mark.parametrize("kind", [0, 2])
def test_images_take_turns_where_scratch_memory_is_short(kind, monkeypatch, always):
    """Two images at a time, of three."""
    problem = Problem(**SMALL | {"B": 3}, kind=kind)
    samples = problem.Q * problem.M * len(problem.shapes) * problem.P
    monkeypatch.setattr(table(), "SCRATCH_BYTES", 2 * 16 * samples + 15)
    compare("triton", problem, frozen=frozen(kind))


@pytest.mark.parametrize("run", [1, 7])
def test_cells_with_more_samples_than_a_stream_walks_over(run, monkeypatch):
    monkeypatch.setattr(table(), "INTERPRETER_RUN", run)
    problem = Problem(shapes=((1, 1), (2, 3)), Q=20, M=1, B=1, P=4, D=8, spread=0.05)
    compare("triton", problem, frozen=(3,))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_coordinates_that_are_no_numbers_read_zero(bad):
    problem = Problem(kind=0, **SMALL)
    (value, points, weights), _, grad_output = rounded(problem, torch.float32, torch.float32)
    outside = points.clone()
    outside[0, 1, 0, 0, 0] = 50.0
    points[0, 1, 0, 0, 0, 0] = bad
    types = (torch.float32, torch.float32)
    expected = run("triton", problem, [value, outside, weights], None, grad_output, *types)
    results = run("triton", problem, [value, points, weights], None, grad_output, *types)
    for name, tensor in expected.items():
        torch.testing.assert_close(results[name], tensor, msg=name)
    assert not results["grad_points"][0, 1, 0, 0, 0].any()
    assert not results["grad_weights"][0, 1, 0, 0, 0]


def test_gradients_far_outside_are_zero():
    problem = Problem(kind=2, spread=1e6, **SMALL)
    inputs = rounded(problem, torch.float32, torch.float32)
    results = run("triton", problem, *inputs, torch.float32, torch.float32, frozen=(3,))
    assert not results["grad_points"].any()


@pytest.mark.parametrize(
    ("asked", "is_merged"),
    [
        ((True, True, False), True),
        ((True, False, False), False),
        ((False, True, False), False),
        ((True, True, True), False),
    ],
)
def test_only_where_value_and_samples_are_asked_for(asked, is_merged, always):
    frozen = [i for i, part in enumerate((0, 1, 1, 2)) if not asked[part]]
    compare("triton", Problem(**SMALL), frozen=frozen)
    assert len(always) == is_merged
    always.append("at least one")


def test_never_in_deterministic_mode(always):
    torch.use_deterministic_algorithms(True)
    try:
        compare("triton", Problem(**SMALL), frozen=(3,))
    finally:
        torch.use_deterministic_algorithms(False)
    assert not always
    always.append("at least one")


def test_the_rule_of_the_table(monkeypatch, always):
    """An encoder layer at 360x640 and its decoder; small maps; heads that no lane can share."""
    always.append("at least one")
    monkeypatch.undo()
    tokens = 4820

    def is_merged(S, Q, D=32, is_large=False):
        value, points = torch.empty(1, S, 8, D), torch.empty(1, Q, 8, 4, 4, 2)
        return launch.launch_merged.config_of(value, points, is_large) is not None

    assert is_merged(tokens, tokens) and is_merged(tokens, tokens, D=64)
    assert not is_merged(tokens, 300) and not is_merged(100, 100)
    assert not is_merged(100 * tokens, 2000)
    assert not is_merged(tokens, tokens, D=24) and not is_merged(tokens, tokens, D=4)
    assert not is_merged(tokens, tokens, is_large=True)
    monkeypatch.setitem(table().MERGED, 90, None)
    assert not is_merged(tokens, tokens)


def test_no_more_scratch_memory_than_stated(monkeypatch):
    allocated, original = [], torch.Tensor.new_empty

    def new_empty(self, size, **named):
        allocated.append(original(self, size, **named))
        return allocated[-1]

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    problem = Problem(**SMALL)
    inputs = rounded(problem, torch.float32, torch.float32)
    run("triton", problem, *inputs, torch.float32, torch.float32, frozen=(3,))
    sizes = {x.nbytes for x in allocated if x.dtype == torch.int32 and x.dim() == 5}
    rows = problem.B * problem.Q * problem.M
    assert sizes == {rows * len(problem.shapes) * problem.P * 16}
