"""Other projects' deformable attention as code for the emulator: compiled, with its launch.

Nothing of theirs is part of this package. Sources are read where the user keeps them; what is
written here only names their kernels, instantiates them, and launches them as their hosts do.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.offline.counts.gpus import aligned, gpu_alignment
from bench.offline.counts.nvcc import Compiled, compile_kernel
from bench.offline.emulator import Buffer, Counts, Options, Program
from bench.offline.emulator.driver import buffer_of
from bench.suite.msda_calls import D, M, MSDACall, P, level_sizes


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Inputs as the operators of the field take them. Letters as in the kernels.

    Attributes:
        sizes, starts: [L, 2] (height, width) and [L], int64.
        locations: [N, Q, M, L, P, 2] in the unit square.
        logits, weights: [N, Q, M, L, P] before and after the softmax.
    """

    call: MSDACall
    value: Tensor
    sizes: Tensor
    starts: Tensor
    locations: Tensor
    logits: Tensor
    weights: Tensor
    grad_output: Tensor


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What came of a launch: the output, or the gradients of value, locations and weights (logits
    where a peer has the softmax inside)."""

    outputs: list[Tensor]
    counts: Counts
    program: Program
    binary: bytes


Launch = Callable[[Options], Ran]


@dataclass(frozen=True)
class Peer:
    """A contender.

    Attributes:
        file: a path, or the end of one, that its sources have.
        source: where to get them.
        dtypes: of value.
        directions: that are launched here.
        prepare: (folder that the path starts in, problem, direction, capability) -> its launch.
        rounded: inputs that it takes in value's type, others are float32.
        needs_nvcc: it is CUDA.
        has_softmax: backward goes on to the gradient of the logits.
    """

    name: str
    file: str
    source: str
    dtypes: tuple[str, ...]
    directions: tuple[str, ...]
    prepare: Callable[[Path, Problem, str, int], Launch]
    rounded: tuple[str, ...] = ()
    needs_nvcc: bool = True
    has_softmax: bool = False

    def find(self, folders: Sequence[Path]) -> Path | None:
        """The folder that its path starts in, below one of these."""
        depth = self.file.count("/")
        name = self.file.rpartition("/")[2]
        found = (p for folder in folders for p in sorted(folder.rglob(name)))
        match = next((p for p in found if p.as_posix().endswith("/" + self.file)), None)
        return None if match is None else match.parents[depth].absolute()

    def problem(self, call: MSDACall) -> Problem:
        """Its inputs, rounded as it takes them."""
        inputs = call.inputs(torch.device("cpu"))
        sizes = torch.tensor(inputs.shapes)
        areas = sizes.prod(1)
        locations = (
            inputs.reference[:, :, None, :, None] + inputs.offsets / level_sizes(inputs)[:, None]
        )
        tensors = {
            "value": inputs.value,
            "sizes": sizes,
            "starts": areas.cumsum(0) - areas,
            "locations": locations,
            "logits": inputs.logits,
            "weights": inputs.logits.flatten(3).softmax(-1).view_as(inputs.logits),
            "grad_output": inputs.grad_output,
        }
        for name in self.rounded:
            tensors[name] = tensors[name].to(call.dtype)
        with gpu_alignment():
            return Problem(call=call, **{k: aligned(t) for k, t in tensors.items()})


def cuda_launch(
    compiled: Compiled,
    grid: int,
    threads: int | tuple[int, int, int],
    arguments: Sequence[Any],
    make_outputs: Callable[[], list[Tensor]],
    shared_bytes: int = 0,
) -> Launch:
    """A launch of a CUDA kernel whose outputs are zero at first.

    Args:
        compiled: its code.
        arguments: numbers and tensors; tuples of them are structures; "output 0" stands for the
            first of the outputs.
    """
    program = Program.decode(compiled.ptx, shared_bytes, threads=threads)

    def launch(options: Options) -> Ran:
        with gpu_alignment():
            outputs = make_outputs()
        buffers: list[Buffer] = []

        def passed(argument: Any) -> Any:
            if isinstance(argument, tuple):
                return tuple(passed(member) for member in argument)
            if isinstance(argument, str):
                argument = outputs[int(argument.split()[1])]
            if not isinstance(argument, Tensor):
                return argument
            buffers.append(buffer_of(f"argument {len(buffers)}", argument))
            return buffers[-1]

        given = [passed(argument) for argument in arguments]
        ran = program.run((grid, 1, 1), given, buffers, options)
        return Ran(outputs=outputs, counts=ran.counts, program=program, binary=compiled.binary)

    return launch


def triton_launch(capability: int, call: Callable[[], list[Tensor]]) -> Launch:
    """The last launch of a call that goes through Triton and gives the outputs."""
    from bench.offline.emulator.session import emulated

    def launch(options: Options) -> Ran:
        with emulated(capability, options=options, poison=False) as session, gpu_alignment():
            outputs = call()
        done = session.launches[-1]
        return Ran(
            outputs=outputs,
            counts=done.counts,
            program=done.function.program,
            binary=done.function.binary,
        )

    return launch


def gradients_of(problem: Problem) -> list[Tensor]:
    """Zeros for the gradients of value, locations and weights, float32."""
    return [
        torch.zeros(problem.value.shape),
        torch.zeros(problem.locations.shape),
        torch.zeros(problem.weights.shape),
    ]


def output_of(problem: Problem) -> list[Tensor]:
    """Zeros for the output."""
    shape = (problem.value.shape[0], problem.locations.shape[1], M * D)
    return [torch.zeros(shape, dtype=problem.value.dtype)]


def _public(folder: Path, problem: Problem, direction: str, capability: int) -> Launch:
    """A thread per channel of a row forward; a block per row backward."""
    file = "ms_deform_im2col_cuda.cuh"
    parts = ("ATen/ATen.h", "ATen/cuda/CUDAContext.h", "THC/THCAtomics.cuh")
    headers = dict.fromkeys(parts, "#include <cstdint>\n")
    read = "const float*, const int64_t*, const int64_t*, const float*, const float*"
    sizes = ", ".join(["int"] * 7)
    N, S = problem.value.shape[:2]
    Q = problem.locations.shape[1]
    elements = N * Q * M * D
    tensors = (
        problem.value, problem.sizes, problem.starts, problem.locations, problem.weights,
    )  # fmt: skip
    numbers = (N, S, M, D, len(problem.sizes), Q, P)
    if direction == "forward":
        kernel = f"ms_deformable_im2col_gpu_kernel<float>(int, {read}, {sizes}, float*)"
        threads, first, outputs = 1024, (), ["output 0"]
    else:
        kernel = (
            f"ms_deformable_col2im_gpu_kernel_shm_blocksize_aware_reduce_v1<float, {D}>"
            f"(int, const float*, {read}, {sizes}, float*, float*, float*)"
        )
        threads, first = D, (problem.grad_output,)
        outputs = ["output 0", "output 1", "output 2"]
    source = f'#include "{file}"\ntemplate __global__ void {kernel};\n'
    return cuda_launch(
        compile_kernel(source, capability, [folder], headers),
        -(-elements // threads),
        threads,
        (elements, *first, *tensors, *numbers, *outputs),
        lambda: output_of(problem) if direction == "forward" else gradients_of(problem),
    )


def queries_together(problem: Problem, channels: int, most_threads: int) -> int:
    """Queries of a block, as the hosts of DCNv4 and deformops choose them: the largest divisor of
    all queries, up to 64, within so many threads."""
    total = problem.locations.shape[0] * problem.locations.shape[1]
    return max(m for m in range(1, 65) if total % m == 0 and m * M * D // channels <= most_threads)


def _dcnv4(folder: Path, problem: Problem, direction: str, capability: int) -> Launch:
    """Eight channels a thread, locations and logits side by side in half precision."""
    headers = dict.fromkeys(("ATen/ATen.h", "ATen/cuda/CUDAContext.h", "THC/THCAtomics.cuh"), "")
    headers["ATen/OpMathType.h"] = """#pragma once
namespace at { template <typename T> using opmath_type = float; }
"""
    levels = len(problem.sizes)
    source = f"""
#include <cassert>
#include <cstdint>
#include <stdexcept>
#include <ATen/OpMathType.h>
#define AT_ASSERTM(...)
#include "flash_deform_im2col_cuda.cuh"
template __global__ void forward_kernel_reg<__half, 8, uint4, {levels}, {P}>(
    const __half*, const int64_t*, const int64_t*, const __half*, __half*, int, int, int, int, int);
"""
    N, S = problem.value.shape[:2]
    Q = problem.locations.shape[1]
    together = queries_together(problem, 8, 512)
    with gpu_alignment():
        joined = aligned(torch.cat([problem.locations.flatten(3), problem.logits.flatten(3)], -1))
    return cuda_launch(
        compile_kernel(source, capability, [folder], headers),
        N * Q // together,
        (D // 8, M, together),
        (
            problem.value, problem.sizes, problem.starts, joined, "output 0",
            S, M, D, Q, together,
        ),
        lambda: output_of(problem),
    )  # fmt: skip


def _deformops_cuda(folder: Path, problem: Problem, direction: str, capability: int) -> Launch:
    """Eight channels a thread forward and one backward; the softmax in the kernel."""
    include = Path(torch.__file__).parent / "include"
    levels = len(problem.sizes)
    is_forward = direction == "forward"
    scalar = {torch.float32: "float", torch.bfloat16: "c10::BFloat16"}[problem.value.dtype]
    channels, most_threads = (8, 512) if is_forward else (1, 256)
    vector = f"deform_utils::channel_vector_t_for<{scalar}, {channels}>"
    if is_forward:
        kernel = (
            f"forward_kernel<{scalar}, 8, {vector}, {levels}, {P}, 1, 512>"
            f"(msda_split::ForwardArgs<{scalar}>)"
        )
    else:
        kernel = (
            f"backward_kernel<{scalar}, 1, {vector}, {levels}, {P}, 1, true, float, true, true>"
            f"(msda_split::BackwardArgs<{scalar}, float>)"
        )
    # The CPU build of PyTorch leaves the declaration out.
    source = f"""
#include <cstdint>
extern "C" int32_t aoti_torch_get_current_cuda_stream(int32_t, void**);
#include "msda_{direction}.cuh"
template __global__ void msda_split::{kernel};
"""
    N, S = problem.value.shape[:2]
    Q = problem.locations.shape[1]
    together = queries_together(problem, channels, most_threads)
    headers = folder / "deformops" / "backends" / "cuda" / "include"
    given = (problem.value, problem.sizes, problem.starts, problem.locations, problem.logits)
    if is_forward:
        given = (*given, "output 0")
    else:
        given = (*given, problem.grad_output, "output 0", "output 1", "output 2")
    return cuda_launch(
        compile_kernel(source, capability, [headers, include]),
        N * Q // together,
        (D // channels, M, together),
        ((*given, S, M, D, Q, together),),
        lambda: output_of(problem) if is_forward else gradients_of(problem),
        0 if is_forward else 2 * 4 * together * M * levels * P,
    )


def _deformops_triton(folder: Path, problem: Problem, direction: str, capability: int) -> Launch:
    """Through its own host functions and Triton's launch."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    package = "deformops.backends.triton"
    forward = importlib.import_module(f"{package}._launch").query_tiled_forward_launch
    kernels = importlib.import_module(f"{package}._kernels.msda_query_tiled")
    # Its policy: sums in value's type from 9.0 on.
    backward = (
        kernels.float32_backward_launch if capability < 90 else kernels.atomic_backward_launch
    )
    table = (problem.sizes.int(), problem.starts.int())

    def call() -> list[Tensor]:
        if direction == "forward":
            output = forward(problem.value, *table, problem.locations, problem.logits, 1)
            return [output.flatten(2)]
        gradient = problem.grad_output.unflatten(-1, (M, D))
        given = (gradient, problem.value, *table, problem.locations, problem.weights)
        return list(backward(*given))

    return triton_launch(capability, call)


def _msda_triton(folder: Path, problem: Problem, direction: str, capability: int) -> Launch:
    """A program of two warps, the least that its tuner tries, for each row."""
    spec = importlib.util.spec_from_file_location("msda_triton_kernels", folder / _MSDA_TRITON)
    assert spec is not None and spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    short = "fwd" if direction == "forward" else "bwd"
    kernel = getattr(code, f"triton_multi_scale_deformable_attention_{short}_kernel").fn
    N, S = problem.value.shape[:2]
    Q, L = problem.locations.shape[1], len(problem.sizes)
    given = [problem.value, problem.locations, problem.weights, problem.sizes]
    sizes = (N, S, D, Q, M, L, P, D, 1 << (L - 1).bit_length(), P, "zeros", False)

    def call() -> list[Tensor]:
        is_forward = direction == "forward"
        outputs = output_of(problem) if is_forward else gradients_of(problem)
        first = [] if is_forward else [problem.grad_output]
        kernel[(Q, N, M)](*outputs, *first, *given, *sizes, num_warps=2)
        return outputs

    return triton_launch(capability, call)


_MSDA_TRITON = "src/msda_triton/kernels.py"
_BOTH = ("forward", "backward")
_WHEEL = "the unpacked wheel of deformops"
PEERS = (
    Peer(
        "public CUDA op", "ms_deform_im2col_cuda.cuh", "a checkout of Deformable-DETR",
        ("float32",), _BOTH, _public,
    ),
    Peer(
        "deformops Triton", "deformops/backends/triton/_kernels/msda_query_tiled.py", _WHEEL,
        ("float32", "bfloat16"), _BOTH, _deformops_triton, ("logits", "weights"), False,
    ),
    Peer(
        "deformops CUDA", "deformops/backends/cuda/include/msda_forward.cuh", _WHEEL,
        ("float32", "bfloat16"), _BOTH, _deformops_cuda, ("logits",), True, True,
    ),
    Peer(
        "DCNv4 flash", "flash_deform_im2col_cuda.cuh", "a checkout of DCNv4",
        ("float16",), ("forward",), _dcnv4, ("locations", "logits", "weights"),
    ),
    Peer(
        "msda-triton", _MSDA_TRITON, "a checkout of rziga/msda-triton",
        ("float32",), _BOTH, _msda_triton, (), False,
    ),
)  # fmt: skip
