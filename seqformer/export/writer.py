"""A model as a file for other programs: torch.export's .pt2, machine code of it, or ONNX.

All hold one graph (`graph.py`) for any number of frames of any size from `least_side` on; T, H and
W need not be multiples of anything.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.export import Dim, ExportedProgram

from ..files import write_bytes
from ..model import SeqFormer
from . import native
from .description import NAME, Description
from .graph import INPUTS, OUTPUTS, ClipGraph, least_side
from .sampling import by_tensorrt_plugin, in_plain_operators

GraphFormat = Literal["pt2", "aoti", "aoti-cuda", "onnx", "onnx-tensorrt"]
OPSET = 20
"""Of ONNX; the first with GridSample as it is today."""
ONNX_REMEDY = "ONNX needs packages that are not installed; pip install 'seqformer[export]'"


def export_graph(
    model: SeqFormer, description: Description, path: Path, graph_format: GraphFormat
) -> None:
    """Trace the model and write the graph with its description, atomically.

    Args:
        model: on the CPU, float32; left as it is.
        graph_format: "pt2"; "aoti" and "aoti-cuda", compiled for this machine's CPU and GPU;
            "onnx" with standard operators; "onnx-tensorrt" with nodes
            `MultiscaleDeformableAttnPlugin_TRT`, which nothing but TensorRT runs.

    Raises: ValueError on another format, or when onnx, onnxscript, a compiler or a GPU
        are missing; WriteError.
    """
    if graph_format not in get_args(GraphFormat):
        raise ValueError(
            f"format {graph_format!r} is unknown; choose one of {get_args(GraphFormat)}"
        )
    if graph_format.startswith("onnx"):
        _check_onnx()
    device = torch.device("cuda" if graph_format == "aoti-cuda" else "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(native.GPU_REMEDY)
    is_native = graph_format.startswith("aoti")
    num_drawn = description.config.top_k
    if is_native:
        graph: ClipGraph = native.native_graph(model, num_drawn, device)
    else:
        is_plugin = graph_format == "onnx-tensorrt"
        sample = by_tensorrt_plugin if is_plugin else in_plain_operators
        graph = ClipGraph(model, sample, num_drawn)
    program = trace(graph.eval())
    extra_files = {NAME: description.to_json()}
    if graph_format == "pt2":
        content = io.BytesIO()
        torch.export.save(program, content, extra_files=extra_files)
        write_bytes(path, content.getvalue())
    elif is_native:
        write_bytes(path, native.compiled(program, graph.example(), extra_files, device))
    else:
        write_bytes(path, _onnx_bytes(program, description))


def trace(graph: ClipGraph) -> ExportedProgram:
    """The graph of a model; T, H and W stay open. Nothing but aten operators (and, where its
    sampling makes them, nodes of TensorRT)."""
    free = {1: Dim.DYNAMIC, 3: Dim.DYNAMIC, 4: Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(
            graph, graph.example(), dynamic_shapes=(free, None), strict=False
        )
    _open_ranges(program, least_side(graph.model))
    for node in program.graph.nodes:  # where in our source it comes from is nobody's business
        for name in ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node"):
            node.meta.pop(name, None)
    # Examples are a pickle and guards are Python code: a file without either can be checked.
    program._example_inputs = None
    program._guards_code = []
    return program


def _open_ranges(program: ExportedProgram, least: int) -> None:
    """Let sides begin at `least`. The example has two windows of a Swin at least, and tracing says
    that no image has fewer. One is right as well: what holds for several windows holds for one. The
    reverse does not, and would show as an upper bound.

    Raises: RuntimeError when a size was taken for a constant.
    """
    # Imported here: SymPy takes half as long as torch itself.
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.symbol import SymT, symbol_is_type
    from torch.utils._sympy.value_ranges import ValueRanges

    ranges = program.range_constraints
    of_inputs = [
        (s, found) for s, found in ranges.items() if not symbol_is_type(s, SymT.UNBACKED_INT)
    ]
    for symbol, found in of_inputs:
        if found.upper is not int_oo:
            raise RuntimeError(f"tracing took a size for a constant: {symbol} is in {found}")
        ranges[symbol] = ValueRanges(min(found.lower, least), int_oo)


def _check_onnx() -> None:
    if not all(find_spec(name) for name in ("onnx", "onnxscript")):
        raise ValueError(ONNX_REMEDY)


def _onnx_bytes(program: ExportedProgram, description: Description) -> bytes:
    with quiet_exporter():
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            verbose=False,
        )
    proto = made.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = NAME, description.to_json()
    return proto.SerializeToString()


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """The exporter reports on what it folds and which packages it does not see."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
