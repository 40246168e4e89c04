"""Run by `test_driver.py` where kernels compile: what the stand-in driver does with a launch."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton import knobs
from triton.runtime import driver

import kernels
from bench.offline.emulator import Options
from bench.offline.emulator.coverage import covered_forms, launched_kernels, model_forms
from bench.offline.emulator.session import EmulatedFaultError, emulated
from bench.suite.problems.deformable_attention import Problem, compare
from kernels import device

CPU = torch.device("cpu")


@triton.jit
def number_kernel(out, scale, pair, absent, SHIFT: tl.constexpr, N: tl.constexpr):
    """out[z, y, x] = scale * (100 z + 10 y + x) + pair[0] + *pair[1] + SHIFT."""
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    place = (z * tl.num_programs(1) + y) * tl.num_programs(0) + x
    value = scale * (100 * z + 10 * y + x).to(tl.float32) + pair[0] + tl.load(pair[1]) + SHIFT
    if absent is not None:
        value += tl.load(absent)
    tl.store(out + place, value, mask=place < N)


@triton.jit(do_not_specialize=["n"])
def copy_kernel(source, target, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + i, tl.load(source + i, mask=i < n), mask=i < n)


def launch_numbers(absent=None):
    out = torch.full((2, 3, 4), -1.0)
    number_kernel[(4, 3, 2)](out, 0.5, (7, torch.tensor([0.25])), absent, SHIFT=1, N=24)
    z, y, x = torch.meshgrid(torch.arange(2), torch.arange(3), torch.arange(4), indexing="ij")
    return out, 0.5 * (100 * z + 10 * y + x) + 7 + 0.25 + 1


@pytest.mark.parametrize("capability", [70, 80, 90, 120])
def test_grids_tuples_floats_and_none(capability):
    with emulated(capability) as gpu:
        out, expected = launch_numbers()
        assert torch.equal(out, expected)
        out, _ = launch_numbers(absent=torch.tensor([2.0]))
        assert torch.equal(out, expected + 2)
    first, second = gpu.launches
    assert first.kernel == "emulator.number_kernel" and first.grid == (4, 3, 2)
    assert first.key != second.key and first.constants["N"] == 24 and not first.faults
    assert len(gpu.compilations) == 2


def test_triton_compiles_for_the_capability_that_is_asked_for():
    for capability in (75, 90):
        with emulated(capability) as gpu:
            launch_numbers()
            assert driver.active.get_current_target().arch == capability
            assert device.facts().capability(CPU) == capability
            assert len(gpu.compilations) == len(gpu.launches) == 1


def test_nothing_is_left_behind():
    names = (torch.empty, torch.empty_like, torch.Tensor.new_empty, torch.empty_strided)
    before = (driver._active, device.facts(), knobs.runtime.jit_cache_hook)
    hooks = list(knobs.runtime.kernel_load_start_hook.calls)
    with pytest.raises(KeyError, match="inside"), emulated(80):
        launch_numbers()
        raise KeyError("inside")
    assert before == (driver._active, device.facts(), knobs.runtime.jit_cache_hook)
    assert hooks == knobs.runtime.kernel_load_start_hook.calls
    assert names == (torch.empty, torch.empty_like, torch.Tensor.new_empty, torch.empty_strided)
    assert not any(key >= 1000 for key in number_kernel.device_caches)
    with (
        pytest.raises(ValueError, match="backend 'triton' was asked for"),
        kernels.use_backend("triton"),
    ):
        kernels.threshold_masks(torch.zeros(1, 2, 2), (2, 2))


def test_blocks_cannot_be_nested_and_capabilities_are_known():
    with emulated(80), pytest.raises(RuntimeError, match="emulated already"), emulated(90):
        pass
    with pytest.raises(ValueError, match="capability 61"), emulated(61):
        pass


def test_auto_takes_the_kernels_and_the_reference_stays():
    logits = torch.randn(2, 5, 6)
    with emulated(80) as gpu:
        drawn = kernels.threshold_masks(logits, (9, 9))
        assert gpu.kernels == {"frame_masks.threshold_kernel"}
        with kernels.use_backend("reference"):
            assert torch.equal(kernels.threshold_masks(logits, (9, 9)), drawn)
        assert len(gpu.launches) == 1


def test_compilations_are_forms_that_are_new():
    with emulated(80) as gpu:
        for n in (5, 16, 1, 1000):  # not specialised on
            x = torch.randn(n)
            y = torch.empty(n)
            copy_kernel[(triton.cdiv(n, 64),)](x, y, n, BLOCK=64)
            assert torch.equal(x, y)
        assert [c.kernel for c in gpu.compilations] == ["emulator.copy_kernel"]
        x = torch.randn(9)[1:]
        copy_kernel[(1,)](x, torch.empty(8), 8, BLOCK=64)
        assert len(gpu.compilations) == 2  # another alignment
        assert gpu.compilations[0].key != gpu.compilations[1].key


def test_one_element_beyond_the_end_is_a_fault():
    x, y = torch.randn(9), torch.zeros(9)
    with emulated(80) as gpu:
        with pytest.raises(EmulatedFaultError, match=r"copy_kernel"):
            copy_kernel[(1,)](x[:8], y, 9, BLOCK=64)
        assert gpu.faults >= 1
    with emulated(80, raise_faults=False) as gpu:
        copy_kernel[(1,)](x, y[:8], 9, BLOCK=64)
        assert gpu.launches[0].faults


def test_memory_that_no_one_wrote():
    with emulated(80):
        fresh = torch.empty(64)
        assert (
            fresh.isnan().all() and torch.zeros(2, dtype=torch.bfloat16).new_empty(3).isnan().all()
        )
        with pytest.raises(EmulatedFaultError, match="nitialised"):
            copy_kernel[(1,)](fresh, torch.empty(64), 64, BLOCK=64)
        fresh[:60] = 1.0
        target = torch.empty(64)
        copy_kernel[(1,)](fresh, target, 60, BLOCK=64)
        assert torch.equal(target[:60], fresh[:60]) and target[60:].isnan().all()


def test_the_default_device_stays_what_it_is():
    with emulated(80), torch.device("meta"):
        assert torch.empty(3).is_meta and torch.zeros(3).is_meta
    with torch.device("meta"):
        assert torch.empty(3).is_meta and torch.nn.Linear(2, 2).weight.is_meta


def test_a_sample_of_the_blocks():
    x = torch.randn(64)
    with emulated(80, sample=lambda kernel, grid: [1, 3]):
        y = torch.zeros(64)
        copy_kernel[(4,)](x, y, 64, BLOCK=16)
    kept = torch.arange(64) // 16 % 2 == 1
    assert torch.equal(y, torch.where(kept, x, 0.0))


def test_the_same_call_twice_and_a_planted_difference():
    problem = Problem(kind=2, D=8)
    with emulated(90) as gpu:
        compare("triton", problem)
        compiled = len(gpu.compilations)
        compare("triton", problem)
        assert len(gpu.compilations) == compiled == 2 and len(gpu.launches) == 4
    assert {launch.kernel.partition(".")[2] for launch in gpu.launches} == {
        "forward_kernel",
        "backward_kernel",
    }
    assert all(launch.seconds > 0 and launch.counts for launch in gpu.launches)


def test_device_memory_only():
    with emulated(80), pytest.raises(ValueError, match="CPU tensors"):
        copy_kernel[(1,)](torch.zeros(4, device="meta"), torch.zeros(4), 4, BLOCK=4)


def test_options_may_change_between_launches():
    with emulated(80, options=Options(order="random", seed=1)) as gpu:
        launch_numbers()
        gpu.options = Options()
        out, expected = launch_numbers()
        assert torch.equal(out, expected) and len(gpu.launches) == 2


def test_forms_that_were_launched_are_named():
    problem = Problem(
        shapes=((5, 8), (3, 4), (2, 3), (2, 2)), Q=62, M=8, D=32, P=4, kind=2, is_padded=True
    )
    with emulated(90) as gpu:
        compare("triton", problem, frozen=(3,))
    covered = covered_forms(90, gpu.launches)
    assert covered == ["msda forward float32 points", "msda backward float32 points"]
    assert len(model_forms(90)) > 30 and covered_forms(90, []) == []
    assert gpu.kernels < launched_kernels()
