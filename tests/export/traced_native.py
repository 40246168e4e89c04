"""What inductor is shown of a whole model for a GPU that is not there; prints it as JSON.

`python -m tests.export.traced_native`, used by `test_native.py`.
"""

from __future__ import annotations

import json

import torch
import torch._higher_order_ops.triton_kernel_wrap as wrapped
import triton
from torch._functorch.aot_autograd import aot_export_module
from torch._guards import TracingContext, tracing
from torch.export import ExportedProgram

from seqformer.export.native import native_graph, on_device
from seqformer.export.writer import trace
from tests.inference.small_model import small_model
from tests.kernels.traced_kernels import Driver


def launches(program: ExportedProgram) -> list[tuple[str, list[str]]]:
    """Kernel, and the tensors that it writes to, of every launch."""
    nodes = [node for node in program.graph.nodes if node.op == "placeholder"]
    inputs = [node.meta["val"] for node in nodes if node.name in ("images", "state")]
    with tracing(TracingContext(inputs[0].fake_mode)), torch.no_grad():
        graph, _ = aot_export_module(program.module(), inputs, trace_joint=False)
    table = wrapped.kernel_side_table
    return [
        (table.get_kernel(node.kwargs["kernel_idx"]).fn.__name__, node.kwargs["tensors_to_clone"])
        for node in graph.graph.nodes
        if node.target is torch.ops.higher_order.triton_kernel_wrapper_functional
    ]


def main() -> None:
    triton.runtime.driver.set_active(Driver())
    torch.cuda.current_device = lambda: 0
    program = trace(native_graph(small_model(), 4, torch.device("cuda")).eval())
    found: dict[str, list] = {"launches": launches(program)}
    moved = on_device(program, torch.device("meta"))  # stands for one that is not the host
    sources = {
        node.all_input_nodes[0]
        for node in moved.graph.nodes
        if node.target is torch.ops.aten.item.default
    }
    devices = {
        node: str(node.kwargs["device"]) for node in moved.graph.nodes if "device" in node.kwargs
    }
    found["size devices"] = [name for node, name in devices.items() if node in sources]
    found["other devices"] = sorted({n for node, n in devices.items() if node not in sources})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
