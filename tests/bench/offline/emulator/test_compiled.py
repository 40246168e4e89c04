"""What compilers emit: Triton's PTX of the project's kernels, and nvcc's of an ordinary one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bench.offline.emulator import ORDERS, Fault, Options, Program
from tests.bench.offline.emulator.lanes import buffer

ROOT = Path(__file__).parents[4]

TRITON = """
import triton
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource, compile
from bench.compile import _gpu_target, all_cases
from bench.offline.emulator import Program

CUDABackend.make_cubin = lambda *_: b"not assembled"
for capability in (70, 90, 120):
    for case in all_cases(capability):
        if case.name not in ("msda forward bfloat16 points", "mask threshold bits float32"):
            continue
        variant = case.variant
        names = variant.kernel.arg_names
        types = {n: "constexpr" if n in variant.constants else variant.types[n] for n in names}
        constants = {(names.index(n),): v for n, v in variant.constants.items()}
        source = ASTSource(variant.kernel, types, constants, {})
        kernel = compile(source, target=_gpu_target(str(capability)), options=variant.options())
        program = Program.decode(kernel.asm["ptx"], kernel.metadata.shared)
        assert program.threads == (32 * variant.num_warps, 1, 1)
        given = []
        for n in names:
            parts = len(types[n]) if isinstance(types[n], tuple) else types[n] != "constexpr"
            given += [n] * parts
        assert 0 <= len(program.parameters) - len(given) <= 2
        writes = {given[k] for k in program.written}
        print(capability, case.name, sorted(writes))
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_kernels_of_three_gpus_are_decoded(tmp_path):
    """Compiled in a process that does not interpret; what they may write to is seen as well."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", TRITON], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    for line in lines:
        result, operand = ("output", "value") if "msda" in line else ("masks", "logits")
        assert f"'{result}'" in line and f"'{operand}'" not in line, line


CUDA = """
extern "C" __global__ void kernel(int n, const float *values, const int *places, float *sums,
                                  float *rows, double *total) {
    __shared__ float cache[128];
    extern __shared__ int order[];
    float local[8];
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) {
        for (int k = 0; k < 8; k++) local[k] = values[(i + k) % n] * (k + 1);
        order[threadIdx.x] = places[i] & 7;
        cache[threadIdx.x] = local[order[threadIdx.x]] / 3.0f + sqrtf(values[i]);
        __syncthreads();
        for (unsigned s = 64; s > 0; s >>= 1) {
            if (threadIdx.x < s) cache[threadIdx.x] += cache[threadIdx.x + s];
            BARRIER
        }
        if (threadIdx.x == 0) rows[i / 128] = cache[0];
        atomicAdd(sums + places[i], values[i]);
        float part = values[i];
        for (int k = 16; k > 0; k /= 2) part += __shfl_xor_sync(~0u, part, k);
        if (threadIdx.x % 32 == 0) atomicAdd(total, (double)part);
        __syncthreads();
    }
}
"""


def nvcc_ptx(folder: Path, capability: int, barrier: str) -> str:
    source, target = folder / "kernel.cu", folder / "kernel.ptx"
    source.write_text(CUDA.replace("BARRIER", barrier))
    command = ["nvcc", "-ptx", f"-arch=sm_{capability}", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Unsupported gpu architecture" in done.stderr:
        pytest.skip(f"this nvcc does not know sm_{capability}")
    assert done.returncode == 0, done.stderr
    return target.read_text()


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("capability", (80, 100))
def test_an_ordinary_cuda_kernel(tmp_path, capability):
    """Gathers, atomics, shared memory of both kinds, arrays of a thread, loops, shuffles."""
    n = 1024
    generator = np.random.default_rng(0)
    values = generator.random(n).astype(np.float32)
    places = generator.integers(0, 50, n).astype(np.int32)
    program = Program.decode(nvcc_ptx(tmp_path, capability, "__syncthreads();"), 512, threads=128)
    k = places & 7
    cache = values[(np.arange(n) + k) % n] * (k + 1) / 3 + np.sqrt(values)
    for order in ORDERS:
        sums, rows, total = np.zeros(50, np.float32), np.zeros(8, np.float32), np.zeros(1)
        views = [buffer(a, name) for a, name in ((values, "values"), (places, "places"))]
        views += [buffer(a, name) for a, name in ((sums, "sums"), (rows, "rows"), (total, "total"))]
        program.run((3, 1, 1), [n, *views], views, Options(order=order))
        np.testing.assert_allclose(rows, cache.reshape(8, 128).sum(1), rtol=1e-5)
        np.testing.assert_allclose(sums, np.bincount(places, values, 50), rtol=1e-5)
        np.testing.assert_allclose(total, values.sum(), rtol=1e-6)
    broken = Program.decode(nvcc_ptx(tmp_path, capability, ""), 512, threads=128)
    with pytest.raises(Fault, match="race within a block"):
        broken.run((3, 1, 1), [n, *views], views)
