"""`--precision bf16` on a CPU: as good as float32, and said where it is slow."""

from __future__ import annotations

import logging

import pytest
import torch

from seqformer.config import EvalConfig
from seqformer.inference import Predictor
from seqformer.inference.network import computes_in
from tests.inference.small_model import small_model


@pytest.mark.parametrize("has_instructions", [True, False])
def test_a_cpu_without_instructions_is_named(has_instructions, monkeypatch, caplog):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        if not hasattr(torch.cpu, name):
            pytest.skip("this torch does not tell")
        monkeypatch.setattr(torch.cpu, name, lambda: has_instructions)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    config = EvalConfig(short_side=32, precision="bf16")
    with caplog.at_level(logging.WARNING, logger="seqformer"):
        assert Predictor(small_model(), config=config, device="cpu").network
    assert ("no instructions for bf16" in caplog.text) == (not has_instructions)


def test_float32_needs_no_instructions_of_its_own():
    assert computes_in(torch.float32)
