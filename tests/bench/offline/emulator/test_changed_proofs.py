"""What `--changed` leaves out: rows whose kernels, launchers and launch tables are those of now."""

from __future__ import annotations

import ast
from dataclasses import replace
from importlib.util import find_spec

import pytest

if find_spec("triton") is None:
    pytest.skip("needs triton", allow_module_level=True)

from bench import emulate
from bench.offline.emulator import coverage
from bench.offline.emulator.proofs import Row
from bench.offline.kernel_source import without_docstrings
from kernels.deformable_attention import tiles


@pytest.fixture(autouse=True)
def digests_anew():
    coverage.launch_digest.cache_clear()
    yield
    coverage.launch_digest.cache_clear()


def test_an_entry_of_a_launch_table_is_of_the_gpus_that_use_it(monkeypatch):
    gpus = (70, 75, 80, 86, 89, 90, 100, 120)
    before = {gpu: coverage.launch_digest(gpu) for gpu in gpus}
    coverage.launch_digest.cache_clear()
    monkeypatch.setitem(tiles.FORWARD, 80, replace(tiles.FORWARD[80], num_warps=2))
    assert {gpu for gpu in gpus if coverage.launch_digest(gpu) != before[gpu]} == {80, 86, 89}
    coverage.launch_digest.cache_clear()
    monkeypatch.setattr(tiles, "FEW_ROWS", tiles.FEW_ROWS + 1)
    assert all(coverage.launch_digest(gpu) != before[gpu] for gpu in gpus)


def test_launchers_count_by_their_code():
    code = (
        'class A:\n    """A."""\n\n    def f(x):\n        """Twice."""\n        return x * 2  # x\n'
    )
    said_otherwise = code.replace("Twice", "Two times").replace("# x", "# doubled")
    only_words = 'def f():\n    """Nothing."""\n'

    def text(source):
        return ast.unparse(without_docstrings(ast.parse(source)))

    assert text(said_otherwise) == text(code) != text(code.replace("2", "3"))
    assert text(only_words) == "def f():\n    pass"


def test_rows_of_other_code_launches_or_with_a_fault_are_run_again(monkeypatch):
    monkeypatch.setattr(coverage, "code_digests", lambda: {"kernel": "code"})
    now = Row(
        name="proof", capability=80, code={"kernel": "code"}, launched_by=coverage.launch_digest(80)
    )
    rows = {
        "now": now,
        "other kernel": replace(now, code={"kernel": "other"}),
        "other launcher": replace(now, launched_by="other"),
        "of another GPU": replace(now, capability=70),
        "wrong": replace(now, fault="wrong"),
        "from before": Row(name="proof", capability=80, code={"kernel": "code"}),
    }
    assert emulate.rows_of_the_same_code(rows) == {"now": now}
