"""The bench of threads sees parallel regions and what is outside of them."""

from __future__ import annotations

import sys

import pytest
import torch

from bench import threads
from kernels import c_library, jobs


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD")
@pytest.mark.skipif(c_library._compiler() is None, reason="no C compiler")
@pytest.mark.skipif(jobs._find_team() is None, reason="no OpenMP of GNU")
def test_a_small_case_is_reported(capfd):
    name = "inference resnet_mini T=2 64x96 float32"
    threads.main(["--size", "smoke", "--only", name, "--rounds", "1", "--no-walls"])
    head, first, second = capfd.readouterr().out.splitlines()
    assert head == name and "regions" in first and second.count("cores") == 3
    serial = float(first.partition(" = ")[2].split()[0])
    assert 0 < serial < 1.5  # nearly all of a small call is


def test_the_model_is_amdahls_law():
    assert threads.modelled(0.0, 8) == 1 / 8 and threads.modelled(1.0, 8) == 1
    assert threads.modelled(0.12, 2) == pytest.approx(0.56)


def test_walls_of_the_product_are_seconds(monkeypatch):
    monkeypatch.setattr(threads, "SIDE", 64)
    before = torch.get_num_threads()
    found = threads.walls("smoke", None, 1)
    assert found["one"] > 0 < found["two"] and torch.get_num_threads() == before
