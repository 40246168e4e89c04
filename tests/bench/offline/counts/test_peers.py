"""Peers' code on the emulator, without any peer: what is absent, and a CUDA kernel of our own.

About half a minute on a busy machine where there is nvcc, most of it imports and the compiler.
"""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch

if find_spec("triton") is None:
    pytest.skip("needs triton", allow_module_level=True)

from bench.offline.counts import nvcc, peers
from bench.offline.counts.nvcc import NvccError, compile_kernel
from bench.offline.counts.peer_code import PEERS, Peer, cuda_launch, output_of
from bench.offline.counts.peers import Found, count_peer, find_peers, line, main
from bench.suite.msda_calls import D, M, MSDACall, P

needs_nvcc = pytest.mark.skipif(nvcc.find() is None, reason="needs nvcc")

ATTENTION = """
#include "scale.h"
struct Sizes { const long long *levels, *starts; long long tokens, queries; };
extern "C" __global__ void attention(
    const float *value, Sizes sizes, const float *places, const float *weights, float *output) {
  const long long row = blockIdx.x, image = row / (sizes.queries * HEADS);
  const int head = row % HEADS, channel = threadIdx.x;
  float sum = 0;
  for (int n = 0; n < LEVELS * POINTS; n++) {
    const int level = n / POINTS;
    const long long h = sizes.levels[2 * level], w = sizes.levels[2 * level + 1];
    const long long first = image * sizes.tokens + sizes.starts[level];
    const float *place = places + 2 * (row * LEVELS * POINTS + n);
    const float x = place[0] * w - 0.5f, y = place[1] * h - 0.5f;
    for (int corner = 0; corner < 4; corner++) {
      const int cx = (int)floorf(x) + corner % 2, cy = (int)floorf(y) + corner / 2;
      if (cx < 0 || cy < 0 || cx >= w || cy >= h) continue;
      const float near = (1 - fabsf(x - cx)) * (1 - fabsf(y - cy));
      sum += weights[row * LEVELS * POINTS + n] * near *
             value[((first + cy * w + cx) * HEADS + head) * CHANNELS + channel];
    }
  }
  output[row * CHANNELS + channel] = SCALE * sum;
}
"""
CALL = MSDACall(height=32, width=64, frames=2, queries=5)


def peer_of(scale: str) -> Peer:
    """Our own kernel in the place of a peer."""

    def prepare(folder, problem, direction, capability):
        levels = len(problem.sizes)
        names = {"HEADS": M, "CHANNELS": D, "LEVELS": levels, "POINTS": P, "SCALE": scale}
        header = "".join(f"#define {name} {value}\n" for name, value in names.items())
        compiled = compile_kernel(ATTENTION, capability, [folder], {"scale.h": header})
        sizes = (problem.sizes, problem.starts, CALL.tokens, CALL.queries)
        given = (problem.value, sizes, problem.locations, problem.weights, "output 0")
        return cuda_launch(compiled, CALL.rows, D, given, lambda: output_of(problem))

    return Peer("ours in CUDA", "attention.cu", "", ("float32",), ("forward",), prepare)


@needs_nvcc
def test_a_cuda_kernel_is_run_checked_and_counted(tmp_path):
    row = count_peer(Found(peer_of("1.0f"), tmp_path), CALL, "forward", 80)
    assert row.error < 1e-6
    assert row.stored == 1.0  # a row is one line of 32 floats
    samples = len(CALL.shapes) * P
    # Two floats, a weight and three sizes a sample, and up to four corners, one line each.
    assert 6 * samples < row.requests <= 10 * samples
    # Only the sizes take two passes: they have eight bytes, which go by half warps.
    assert row.wavefronts == row.requests + 3 * samples
    assert row.ptx > 100 and row.registers > 8 and row.spilled == 0
    assert "error" in line("ours in CUDA", row)


@needs_nvcc
def test_a_wrong_output_is_no_row(tmp_path):
    with pytest.raises(ValueError, match=r"ours in CUDA .* relative error"):
        count_peer(Found(peer_of("1.01f"), tmp_path), CALL, "forward", 80)


@needs_nvcc
def test_the_compilers_errors_are_told():
    with pytest.raises(NvccError, match=r"nvcc failed.*nowhere"):
        compile_kernel('#include "nowhere.h"', 80)


def test_absent_peers_are_told_in_one_sentence(tmp_path, capsys):
    found, sentence = find_peers([tmp_path])
    assert not found
    assert all(f"{peer.name} (wants {peer.source})" in sentence for peer in PEERS)
    assert sentence.endswith("name folders with --sources or in PEER_SOURCES.")
    assert main(["--sources", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


def test_peers_are_found_by_a_file_of_theirs(tmp_path, monkeypatch):
    for peer in PEERS:
        path = tmp_path / "deep" / peer.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(nvcc, "find", lambda: "nvcc")
    found, sentence = find_peers([tmp_path])
    assert [f.peer for f in found] == list(PEERS) and sentence == ""
    assert all((f.folder / f.peer.file).is_file() for f in found)
    monkeypatch.setattr(nvcc, "find", lambda: None)
    found, sentence = find_peers([tmp_path])
    assert [f.peer for f in found] == [peer for peer in PEERS if not peer.needs_nvcc] != []
    assert "public CUDA op (wants nvcc)" in sentence


@needs_nvcc
def test_a_record_is_added_to_and_tells_what_did_not_pass(tmp_path, monkeypatch, capsys):
    found = [Found(peer_of("1.0f"), tmp_path), Found(peer_of("2.0f"), tmp_path)]
    monkeypatch.setattr(peers, "find_peers", lambda folders: (found, ""))
    monkeypatch.setattr(peers, "WORKLOADS", {"small": CALL})
    path = tmp_path / "record.json"
    given = ["--output", str(path), "--dtype", "float32", "--direction", "forward"]
    assert main([*given, "--capability", "80"]) == 0
    record = json.loads(path.read_text())
    assert [row["side"] for row in record["extra"]["rows"]] == ["ours in CUDA"]
    assert "relative error" in record["extra"]["left_out"][0]["reason"]
    capsys.readouterr()
    assert main([*given, "--capability", "80", "90", "--changed"]) == 0
    record = json.loads(path.read_text())
    assert record["part"] == "emulated-peers" and record["machine"]["emulated"] == [80, 90]
    assert len(record["extra"]["rows"]) == 2
    assert "sm_80" not in capsys.readouterr().out.replace("left out: ours in CUDA forward", "")


def test_inputs_are_rounded_as_the_peer_takes_them():
    by_name = {peer.name: peer for peer in PEERS}
    call = MSDACall(height=32, width=64, frames=1, queries=2, dtype=torch.float16)
    problem = by_name["DCNv4 flash"].problem(call)
    assert problem.locations.dtype == problem.logits.dtype == torch.float16
    assert problem.starts.tolist() == [0, 32, 40, 42]
