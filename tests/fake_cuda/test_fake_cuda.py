"""The training step and inference on a GPU that is not there: devices, dtypes, shapes, host reads.

Each test starts a process of its own, since the fake CUDA guard must be registered before torch is
loaded. Nothing is computed: tensors have sizes, dtypes and devices, and no values.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fake_cuda import load

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(load.why_not() is not None, reason=str(load.why_not()))

Case = tuple[str, dict[str, Any]]
ALL = ["backbone", "encoder", "decoder"]
USUAL: list[Case] = [
    ("train", {}),
    ("train", {"precision": "bf16", "frame_chunk": 2}),
    ("train", {"precision": "fp16", "micro_batches": 2}),
    ("train", {"muon": 2.0, "channels_last": True}),
    ("train", {"recompute": ALL, "frame_chunk": 2, "precision": "bf16"}),
    ("train", {"backbone": "resnet50", "precision": "bf16", "channels_last": True}),
    ("train", {"backbone": "swin_t", "dropout": 0.0}),
    ("infer", {"precision": "bf16"}),
    ("infer", {"mode": "clips"}),
    ("infer", {"backbone": "resnet50", "precision": "fp16"}),
    ("infer", {"backbone": "swin_t"}),
]
ALL_BACKBONES = ("resnet50", "resnet101", "resnext101_32x8d", "swin_t", "swin_l", "resnet_mini")
MORE: list[Case] = [
    ("train", {"backbone": backbone, "precision": precision, **how})
    for backbone in ALL_BACKBONES
    for precision in ("fp32", "bf16", "fp16")
    for how in ({}, {"frame_chunk": 2}, {"recompute": ALL, "channels_last": True})
] + [
    ("infer", {"backbone": backbone, "precision": precision, "mode": mode})
    for backbone in ALL_BACKBONES
    for precision in ("fp32", "bf16", "fp16")
    for mode in ("whole", "clips")
]
PLANTED: list[tuple[Case, str]] = [
    (("train", {"planted": "constant on the CPU"}), "cuda:1 and cpu"),
    (("train", {"planted": "round trip"}), "copies between cpu and cuda:1"),
    (("infer", {"planted": "round trip"}), "copies between cpu and cuda:1"),
    (("train", {"planted": "value read"}), "DataDependent"),
    (("train", {"planted": "current device"}), "cuda:0"),
    (("train", {"planted": "low precision gradient"}), "gradient of class_embed.0.weight"),
    (("infer", {"planted": "constant for every chunk"}), "copies between cpu and cuda:1"),
]
NOT_DETERMINISTIC = {
    *("avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "max_unpool2d", "max_unpool3d"),
    *("fractional_max_pool2d_backward", "fractional_max_pool3d_backward"),
    *("upsample_linear1d_backward", "upsample_trilinear3d_backward"),
    *("upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward"),
    *("upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward"),
    *("nll_loss_forward", "nll_loss2d_forward", "_ctc_loss_backward"),
    *("_embedding_bag_backward", "_embedding_bag_dense_backward", "put_", "put", "histc"),
    *("bincount", "median", "nanmedian", "kthvalue", "grid_sampler_2d_backward"),
    *("grid_sampler_3d_backward", "cumsum", "cumsum_", "scatter_reduce", "scatter_reduce_"),
}
"""On a GPU and in floating point, these refuse to run where deterministic algorithms are asked for
(documentation of `torch.use_deterministic_algorithms`); of a sum over integers nothing is said."""


def run(cases: list[Case]) -> dict[str, Any]:
    """The answer of a process; see `fake_cuda/__main__.py`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fake_cuda", json.dumps(cases)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def of_floats(answer: dict[str, Any]) -> set[str]:
    """Operators that made a tensor of floats on the GPU."""
    seen = [(name.split(".")[1], dtype) for name, dtype in answer["operators"]]
    return {name for name, dtype in seen if dtype.startswith(("torch.float", "torch.bfloat"))}


def wrong(cases: list[Case], answers: list[str | None]) -> list[str]:
    return [f"{c}: {a}" for c, a in zip(cases, answers, strict=True) if a is not None]


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    return run(USUAL)


def test_step_and_inference_stay_on_their_gpu(usual):
    assert wrong(USUAL, usual["answers"]) == []


def test_no_operator_lacks_a_deterministic_form(usual):
    floats = of_floats(usual)
    assert {"convolution_backward", "index_put"} <= floats
    assert floats & NOT_DETERMINISTIC == set()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ALL_BACKBONES)
def test_every_backbone_in_every_precision(backbone):
    cases = [case for case in MORE if case[1]["backbone"] == backbone]
    assert wrong(cases, run(cases)["answers"]) == []


def test_planted_faults_are_found():
    answer = run([case for case, _ in PLANTED] + [("train", {"planted": "float cumsum"})])
    *answers, summed = answer["answers"]
    assert summed is None and of_floats(answer) & NOT_DETERMINISTIC == {"cumsum"}
    for (case, expected), answer in zip(PLANTED, answers, strict=True):
        assert answer is not None and expected in answer, f"{case}: {answer}"
