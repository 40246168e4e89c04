"""What inductor is shown of the kernels, for a GPU that is not there, and whether they compute what
the proven launches do, on an emulated one; prints it as JSON.

`python -m tests.kernels.traced_kernels`, used by `test_in_graph.py`.
"""

from __future__ import annotations

import importlib.util
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch._higher_order_ops.triton_kernel_wrap as wrapped
import triton
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_export_module
from torch._guards import TracingContext, tracing
from torch._inductor.codegen.wrapper import (
    user_defined_triton_kernel_transitive_closure_source_code,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import kernels
from kernels import device
from kernels.deformable_attention import triton_in_graph as attention
from kernels.mask_head import triton_in_graph as mask_head
from kernels.mask_head.op import sizes_of

TARGET = GPUTarget("cuda", 90, 32)
SHAPES = ((8, 10), (4, 5), (3, 4), (2, 3))
T, Q, N = 5, 300, 10


class Driver:
    """Of a GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return TARGET


class Facts(device.DeviceFacts):
    def capability(self, device: torch.device) -> int:
        return 90


class Both(nn.Module):
    """Both operators, at open sizes."""

    def forward(
        self, maps: list[Tensor], samples: tuple[Tensor, ...], instances: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        sides = [side for x in maps for side in x.shape[2:]]
        sampled = attention.forward(tokens.unflatten(2, (8, 32)), *samples, sides)
        sizes = sizes_of(kernels.MaskHeadConfig())
        return sampled, mask_head.forward(*instances, sizes)


def nodes() -> list[tuple[str, list[str]]]:
    """The launches in the graph that inductor gets: kernel, and which arguments it writes to."""
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
        made = partial(torch.empty, device="cuda")
        maps = [made(T, 256, h, w) for h, w in SHAPES]
        samples = made(T, Q, 8, 4, 4, 2), made(T, Q, 8, 4, 4), made(1, Q, 4, 2)
        instances = (
            made(1, T, 8, *SHAPES[0]),
            made(N, 169),
            made(N, T, 2),
            made(N, dtype=torch.int64),
        )
    free = {0: Dim.DYNAMIC}
    sizes = (
        [free | {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}] * 4,
        (free, free, None),
        (dict.fromkeys((1, 3, 4), Dim.DYNAMIC), None, {1: Dim.DYNAMIC}, None),
    )
    inputs = (maps, samples, instances)
    program = torch.export.export(Both(), inputs, dynamic_shapes=sizes, strict=False)
    program._guards_code = []  # code that reads values
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    with tracing(TracingContext(values[0].fake_mode)):
        graph, _ = aot_export_module(program.module(), values, trace_joint=False)
    table = wrapped.kernel_side_table
    return [
        (table.get_kernel(node.kwargs["kernel_idx"]).fn.__name__, node.kwargs["tensors_to_clone"])
        for node in graph.graph.nodes
        if node.target is torch.ops.higher_order.triton_kernel_wrapper_functional
    ]


def cubin_bytes(kernel: Any, constants: dict[str, Any], integers: tuple[str, ...]) -> int:
    """Size of the machine code of the source that inductor would write for a kernel."""
    source = user_defined_triton_kernel_transitive_closure_source_code(kernel)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "alone.py"
        path.write_text(f"import triton\nimport triton.language as tl\n\n@triton.jit\n{source}")
        spec = importlib.util.spec_from_file_location("alone", path)
        assert spec is not None and spec.loader is not None
        alone = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(alone)
        names = kernel.arg_names
        types = {
            name: "constexpr"
            if name in constants
            else "*i64"
            if name == "clip_index"
            else "i64"
            if name in integers
            else "*fp32"
            for name in names
        }
        values = {(names.index(name),): value for name, value in constants.items()}
        compiled = triton.compile(
            ASTSource(getattr(alone, kernel.__name__), types, values),
            target=TARGET,
            options={"num_warps": 4, "num_stages": 1},
        )
    return len(compiled.asm["cubin"])


def same_bits(capability: int) -> bool:
    """Whether both give what the proven launches give, on an emulated GPU."""
    from bench.offline.emulator.session import emulated

    generator = torch.Generator().manual_seed(0)
    random = partial(torch.rand, generator=generator)
    shapes, clips = ((4, 5), (2, 3), (2, 2)), torch.zeros(2, dtype=torch.int64)
    tokens = sum(h * w for h, w in shapes)
    attended = random(2, tokens, 8, 32), random(2, 6, 8, 3, 4, 2), random(2, 6, 8, 3, 4)
    reference = random(1, 6, 3, 4)
    drawn = random(1, 2, 8, 9, 33), random(2, 169), 40 * random(2, 2, 2), clips
    value, *samples = attended
    head = kernels.MaskHeadConfig()
    with emulated(capability):
        pairs = (
            (
                attention.forward(*attended, reference, [n for shape in shapes for n in shape]),
                kernels.ms_deform_attn_fused(value, shapes, *samples, reference),
            ),
            (mask_head.forward(*drawn, sizes_of(head)), kernels.dynamic_mask_head(*drawn)),
        )
    return all(ours.any() and torch.equal(ours, proven) for ours, proven in pairs)


def main() -> None:
    emulated = {capability: same_bits(capability) for capability in (80, 90)}
    triton.runtime.driver.set_active(Driver())
    torch.cuda.current_device = lambda: 0
    with device.replaced(Facts()):
        found = nodes()
    of_attention = {
        **{"M": 8, "D": 32, "L": 4, "P": 4, "F": 4, "SAMPLES": 16, "KIND": 2, "PAIRED": False},
        **{"BQ": 4, "HEADS": 1, "VECTORS": 1, "LANES": 8, "VEC": 4},
    }
    of_masks = {"C": 8, "D": 8, "LAYERS": 3, "R": 1, "F": 2, "CELLS": 4, "BP": 128}
    integers = (*attention._SIZES, "Q", "S", "share_points", "share_reference")
    cubins = {
        "levels_kernel": cubin_bytes(attention.levels_kernel, of_attention, integers),
        "numbers_kernel": cubin_bytes(mask_head.numbers_kernel, of_masks, mask_head._NUMBERS),
    }
    print(json.dumps({"nodes": found, "cubins": cubins, "same": emulated}))


if __name__ == "__main__":
    main()
