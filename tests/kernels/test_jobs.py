"""Jobs of C code: on torch's own threads, and on Python's where there are none of those."""

from __future__ import annotations

import os

import pytest
import torch

import kernels
from kernels import c_library, jobs

pytestmark = pytest.mark.skipif(c_library._compiler() is None, reason="no C compiler")
SHAPES = ((9, 12), (4, 5))


@pytest.fixture
def on_threads():
    """Sets torch's number of threads, and sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def attention() -> list[torch.Tensor]:
    """Output and gradients."""
    g = torch.Generator().manual_seed(0)
    value = torch.randn(2, sum(h * w for h, w in SHAPES), 4, 16, generator=g).requires_grad_()
    places = torch.rand(2, 30, 4, 2, 3, 2, generator=g).requires_grad_()
    weights = torch.rand(2, 30, 4, 2, 3, generator=g).requires_grad_()
    output = kernels.ms_deform_attn(value, SHAPES, places, weights)
    leaves = (value, places, weights)
    return [output.detach(), *torch.autograd.grad(output, leaves, torch.ones_like(output))]


def masks() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [kernels.threshold_masks(torch.randn(5, 7, 9, generator=g), (20, 31))]


@pytest.mark.parametrize("call", [attention, masks])
def test_every_way_gives_the_same_bits(call, on_threads, monkeypatch):
    on_threads(1)
    expected = call()
    for find in (jobs._find_team, lambda: None):
        monkeypatch.setattr(jobs, "_find_team", find)
        for threads in (2, 3):
            on_threads(threads)
            assert all(map(torch.equal, call(), expected))


@pytest.mark.skipif(jobs._find_team() is None, reason="no OpenMP of GNU")
def test_the_team_is_torchs(on_threads, monkeypatch):
    """One region of the default number of threads: no other way is taken."""
    seen = []
    team, number = jobs._find_team()

    def watched(*given):
        seen.append(given)
        team(*given)

    monkeypatch.setattr(jobs, "_find_team", lambda: (watched, number))
    monkeypatch.setattr(jobs, "run_jobs", None)
    on_threads(2)
    masks()
    assert [given[2:] for given in seen] == [(0, 0)]
    on_threads(1)
    masks()
    assert len(seen) == 1


def test_a_library_that_is_not_torchs_is_left_alone(on_threads, monkeypatch):
    """Its number of threads is another."""
    on_threads(2)
    expected = masks()
    monkeypatch.setattr(jobs, "_find_team", lambda: (None, lambda: 64))
    assert jobs._team() is None and all(map(torch.equal, masks(), expected))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_none_of_these_threads_and_still_answers(on_threads):
    on_threads(2)
    expected = masks()
    child = os.fork()
    if not child:
        os._exit(0 if all(map(torch.equal, masks(), expected)) else 1)
    assert os.waitpid(child, 0)[1] == 0
