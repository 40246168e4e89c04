"""The tuner: it tries every candidate, and writes the fastest to the table of one capability."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec, module_from_spec, spec_from_file_location

import pytest
import torch

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
CPU = torch.device("cpu")  # stands for compute capability 9.0


def subjects():
    from bench.tune import SUBJECTS

    return {subject.name: subject for subject in SUBJECTS}


def loaded(text, subject, folder):
    """The module of a table, with this source."""
    path = folder / "tuned.py"
    path.write_text(text)
    spec = spec_from_file_location(subject.module.__name__, path)
    tuned = module_from_spec(spec)
    spec.loader.exec_module(tuned)
    return tuned


@pytest.mark.parametrize(
    "name",
    [
        *("msda forward", "msda backward", "msda merged"),
        *("mask forward", "mask backward", "mask losses"),
    ],
)
def test_fastest_candidate_is_written(name, monkeypatch, capsys, tmp_path):
    from bench import tune

    subject = subjects()[name]
    table = getattr(subject.module, subject.table)
    wanted = list(subject.candidates(90))[-1]
    tried = []

    def cold(call, device):
        tried.append(table[90])
        return [1.0 if table[90] == wanted else 2.0]

    monkeypatch.setattr(tune.timing, "cold", cold)
    before = dict(table)
    fast = replace(subject, calls=lambda device: iter([lambda: None]))
    best = tune.tune(fast, CPU)
    assert best == wanted and table == before
    assert tried == list(subject.candidates(90))
    assert "<- fastest" in capsys.readouterr().out

    text = tune.rewrite(subject.path.read_text(), subject.table, 90, best)
    new = getattr(loaded(text, subject, tmp_path), subject.table)
    assert tune.written(new[90]) == tune.written(best)
    assert {k: tune.written(new[k]) for k in new if k != 90} == {
        k: tune.written(table[k]) for k in table if k != 90
    }


def test_adds_can_be_left_unmerged(tmp_path):
    """An entry of None is written, used, and written over."""
    from bench import tune

    subject = subjects()["msda merged"]
    assert None in list(subject.candidates(90))
    text = tune.rewrite(subject.path.read_text(), subject.table, 90, None)
    assert loaded(text, subject, tmp_path).MERGED[90] is None
    again = tune.rewrite(text, subject.table, 90, subject.module.MERGED[90])
    assert again == subject.path.read_text()


def test_a_capability_without_an_entry_is_refused():
    from bench import tune

    with pytest.raises(ValueError, match="no entry of its own for compute capability 60"):
        subject = subjects()["mask losses"]
        tune.rewrite(subject.path.read_text(), "LOSS", 60, subject.module.LOSS[90])


@pytest.mark.parametrize("warps", [1, 2])
def test_candidates_of_the_mask_head_give_the_same_gradients(warps, monkeypatch):
    """One of each number of cells, interpreted."""
    from bench import tune
    from bench.suite.problems.mask_head import make_case, run_head
    from kernels.mask_head import tiles

    case = make_case(1, 1, 2, 3, 13, seed=3)
    grad = torch.randn(case.out_shape(), dtype=torch.float64)
    expected = run_head("reference", case, grad)
    of_warps = [t for t in tune.mask_backward_candidates(90) if t.num_warps == warps]
    for tile in (of_warps[1], of_warps[-1]):
        monkeypatch.setattr(tiles, "BACKWARD", {70: tile})
        for actual, wanted in zip(
            run_head("triton", case, grad, torch.float32), expected, strict=True
        ):
            torch.testing.assert_close(actual.double(), wanted, atol=1e-4, rtol=1e-4)
