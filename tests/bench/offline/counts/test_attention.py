"""Counts of the compiled deformable attention: the goals that its layout was chosen for, kept.

They need no size: what a row asks for is the same in small images. Compiling takes most of the half
minute.
"""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from tests.bench.offline.emulator.processes import start

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

COUNT = """
import json, sys, torch
from dataclasses import asdict
from bench.offline.counts.attention import count
from bench.suite.msda_calls import MSDACall

from kernels.deformable_attention import tiles

rows = tiles.MERGED_ROWS
for direction, dtype, capability in json.loads(sys.argv[1]):
    # Few tokens, whose adds would not be merged.
    tiles.MERGED_ROWS = 0 if direction == "merged" else rows
    direction = direction.replace("merged", "backward")
    call = MSDACall(height=90, width=160, frames=2, dtype=getattr(torch, dtype))
    print(json.dumps(asdict(count(call, direction, capability))))
"""

GOALS = {
    ("forward", "float32", 80): {"wavefronts": 90, "sass": 300, "spilled": 0},
    ("forward", "bfloat16", 80): {"wavefronts": 50, "sass": 250, "spilled": 0},
    ("backward", "float32", 80): {"wavefronts": 92, "sass": 900, "spilled": 0},
    ("backward", "float32", 90): {"wavefronts": 90, "sass": 720, "added": 52, "spilled": 0},
    ("merged", "float32", 80): {"wavefronts": 60, "sass": 700, "added": 50, "spilled": 0},
    ("merged", "float32", 90): {"wavefronts": 60, "sass": 600, "added": 20, "spilled": 0},
}
"""Per row, at most."""


@pytest.fixture(scope="module")
def rows():
    done = start("-c", COUNT, json.dumps(list(GOALS)))
    assert done.returncode == 0, done.stdout
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(GOALS, found, strict=True))


@pytest.mark.parametrize("case", GOALS, ids=str)
def test_goals(rows, case):
    over = {k: rows[case][k] for k, most in GOALS[case].items() if rows[case][k] > most}
    assert not over


def test_counts_are_of_the_work(rows):
    """What follows from the sizes alone: 16 samples of four corners, 128 bytes each in float32."""
    forward, backward = rows["forward", "float32", 80], rows["backward", "float32", 80]
    corner_requests = 64 * 8 / 32
    assert corner_requests < forward["requests"] < 2 * corner_requests
    assert forward["atomics"] == 0 and forward["bounds"]["l2 atomics"] == 0
    # An add of a corner is four sectors; no more than all corners, and most are inside.
    assert 0.3 * 64 * 4 < backward["atomic_sectors"] < 64 * 4
    # One float a lane: every sector is a pass of its own. Four floats a lane: lines are.
    assert backward["added"] == backward["atomic_sectors"]
    of_vectors = rows["backward", "float32", 90]
    assert of_vectors["added"] == pytest.approx(of_vectors["atomic_sectors"] / 4, rel=0.05)


def test_the_bound_of_several_launches_is_their_sum(rows):
    from bench.offline.counts.attention import Row

    merged, single = rows["merged", "float32", 90], rows["backward", "float32", 90]
    largest = [max(launch["bounds"].values()) for launch in merged["launches"]]
    assert len(largest) == 5 and merged["bound"] == pytest.approx(sum(largest))
    assert merged["bound"] >= max(merged["bounds"].values())
    assert single["launches"] == [] and single["bound"] == max(single["bounds"].values())
    kernels = [launch["kernel"].partition(".")[2] for launch in merged["launches"]]
    assert kernels == [f"{k}_kernel" for k in ("count", "offset", "scatter", "merge", "softmax")]
    # Of the code that adds, only the trips count that met another cell.
    assert merged["launches"][3]["sass"] < 1.1 * merged["launches"][3]["ptx"]
    parts = ({"bounds": {"issue": 3.0, "l1": 2.0}}, {"bounds": {"issue": 1.0, "l1": 4.5}})
    fields = merged | {"launches": parts, "bounds": {"issue": 4.0, "l1": 6.5}}
    assert Row(**fields).binds == "l1"


def test_bounds():
    """Counts that are easy to divide, on an A100."""
    from bench.offline.counts.attention import per_row
    from bench.offline.counts.gpus import GPUS
    from bench.offline.emulator.counts import Caches, Counts, Requests, SharedRequests
    from bench.suite.msda_calls import MSDACall

    call, gpu = MSDACall(height=64, width=64, frames=2, queries=10), GPUS[80]
    n = call.rows
    assert n == 160
    none = SharedRequests()
    counts = Counts(
        instructions={"float": 100 * n, "shuffle": 3 * n},
        loads=Requests(requests=2 * n, sectors=9 * n, wavefronts=5 * n),
        stores=Requests(line_passes=n),
        atomics=Requests(requests=n, sectors=4 * n, line_passes=2 * n),
        shared_loads=SharedRequests(wavefronts=n),
        shared_stores=none,
        shared_atomics=none,
        caches=Caches(
            l1_read_sectors=10,
            l1_hit_sectors=5,
            l2_read_sectors=320,
            l2_atomic_sectors=800,
            dram_read_sectors=1,
            dram_write_sectors=2,
        ),
    )
    found = per_row(counts, call, gpu, sass=40.0)
    assert (found["ptx"], found["shared"], found["added"], found["l1_hit"]) == (103, 4, 2, 0.5)
    clocks = 108 * 1.41e9
    expected = {
        "issue": 40 * n / 4 / clocks,
        "l1": (5 + 3 + 1 + 1 + 2) * n / clocks,
        "l2 reads": 320 / 160 / 1.41e9,
        "l2 atomics": 800 / 80 / 1.41e9,
        "dram": 96 / 1.555e12,
    }
    assert found["bounds"] == pytest.approx({k: 1e6 * s / 2 for k, s in expected.items()})
    by_ptx = per_row(counts, call, gpu, sass=None)["bounds"]["issue"]
    assert by_ptx == pytest.approx(1e6 * 103 * n / 4 / clocks / 2)
