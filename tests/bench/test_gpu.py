"""The GPU benchmark and the tuner, as far as a machine without a GPU can run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import gpu, msda, tune
from bench.gpu_msda import MSDACase
from kernels import msda_table
from kernels.msda_table import Tile


@pytest.mark.parametrize("part", ["ops", "peers"])
def test_smoke_run_checks_and_records(part, tmp_path):
    out = tmp_path / "record.json"
    assert gpu.main(["--part", part, "--smoke", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["failed_checks"] == [] and set(record["ceilings"]) == {
        "l1_gather_gb_s",
        "l2_gather_gb_s",
        "float_adds_g_s",
    }
    contenders = {row["contender"] for row in record["rows"]}
    assert {"ours", "grid_sample"} <= contenders
    assert ("grid_sample by frame" in contenders) == (part == "peers")
    for row in record["rows"]:
        assert row["fwd_ms"] > 0
        assert row["bwd_ms"] > 0 or row["case"] == "mask drawing"  # which has no gradient
    assert {"msda", "mask"} == {row["op"] for row in record["rows"]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path, capsys):
    out = tmp_path / "record.json"
    assert gpu.main(["--part", "ops", "--out", str(out)]) == 2
    assert tune.main([]) == 2
    assert not out.exists() and "no GPU found" in capsys.readouterr().err


def test_sizes_and_bytes_of_the_published_encoder():
    """The table of the roofline: 480x768, ten frames."""
    case = MSDACase(name="encoder", height=480, width=768, frames=10)
    assert (case.tokens, case.rows) == (7656, 612_480)
    assert round(case.model_bytes()["forward"] / 1e6) == 392 - 118  # 274: value, samples, output
    assert round(case.gathered_bytes() / 1e9, 1) == 5.0
    assert round(case.added_floats() / 1e6) == 1254


def test_the_tuner_rewrites_one_entry():
    text = Path(msda_table.__file__).read_text()
    tile = Tile(num_warps=8, channels_per_lane=4, max_registers=64, scalar=True)
    changed = tune.rewrite(text, "backward", 80, tile)
    names: dict = {}
    exec(compile(changed, "table", "exec"), names)
    wanted = Tile.__module__ and names["Tile"](
        num_warps=8, channels_per_lane=4, max_registers=64, scalar=True
    )
    assert names["BACKWARD"][80] == wanted
    assert {k: repr(v) for k, v in names["FORWARD"].items()} == {
        k: repr(v) for k, v in msda_table.FORWARD.items()
    }


def test_cpu_benchmark_runs_and_its_sides_agree():
    record = msda.measure(msda.SMOKE, repeat=1)
    assert set(record["sides"]) == set(msda.SIDES)
    outputs = [msda.step(side, msda.SMOKE, True)() for side in msda.SIDES]
    for other in outputs[1:]:
        for a, b in zip(outputs[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
