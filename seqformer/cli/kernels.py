"""Which implementation of every operator runs on this machine, and why.

seqformer kernels
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seqformer.cli.command import run

OPERATORS = {
    "ms_deform_attn": "deformable_attention",
    "ms_deform_attn_fused": "deformable_attention",
    "dynamic_mask_head": "mask_head",
    "dynamic_mask_loss": "mask_loss",
    "encode_masks": "frame_masks",
}
"""Public name -> its folder."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Say which implementation answers on every device, what is compiled for the CPU, and why."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the tensors that the operators would be called with."""


def act(options: Options) -> None:
    """The command."""
    import torch

    from seqformer._kernels import kernels

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    write = sys.stdout.write
    write(f"torch {torch.__version__}, triton {_version('triton')}\n")
    write(f"backend asked for: {kernels.current_backend()}\n")
    for device in (torch.device("cpu"), *gpus):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor"
        write(f"\n{device} ({name}), {options.precision}\n")
        for operator, source in OPERATORS.items():
            chosen, why = implementation(
                torch.empty(0, dtype=dtype[options.precision], device=device), source
            )
            write(f"  {operator:22}{chosen:14}{why}\n")
    if not gpus:
        write("\nno GPU is visible to torch; the Triton kernels would run there\n")


def implementation(tensor: Any, source: str) -> tuple[str, str]:
    """Who would answer a call with such a tensor, and why.

    Args:
        tensor: its device and dtype decide.
        source: name of its folder.
    """
    import torch

    from seqformer._kernels import kernels

    backend = kernels.backend
    asked = backend.current_backend()
    if backend.is_reference_chosen(tensor):
        return "reference", f"plain PyTorch: backend {asked!r} on {tensor.device.type}"
    try:
        chosen = backend.kernel_implementation(tensor)
    except ValueError as error:
        return "none", str(error)
    if chosen == "triton":
        return "triton", "the kernels for a GPU"
    if kernels.c_library.library(source, torch.float32) is None:
        return "plain PyTorch", "the fast path without a C compiler"
    return "C", "compiled for this processor"


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed: no Triton kernels"


def main(arguments: Sequence[str], program: str = "seqformer kernels") -> int:
    """Entry point. Returns: the exit code."""
    return run(program, Options, act, arguments)
