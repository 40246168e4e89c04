"""Which implementation of every operator runs on this machine, and why.

seqformer kernels
seqformer kernels package DIR
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import device, dtype

_NAMES = {
    "triton": "Triton, the kernels for a GPU",
    "c": "C, compiled for this processor",
    "torch": "PyTorch, the fast path without a C compiler",
    "reference": "PyTorch, the definition",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Say which implementation answers on every device, and why the others do not."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the tensors that the operators are called with."""
    backend: Literal["auto", "triton", "reference"] | None = None
    """To ask for, instead of what the environment variable SEQFORMER_KERNELS_BACKEND says."""


def act(options: Options) -> None:
    """The command."""
    from seqformer._kernels import kernels

    with kernels.use_backend(options.backend or kernels.current_backend()):
        _explain_all(options)


def _explain_all(options: Options) -> None:
    import torch

    from seqformer._kernels import kernels

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    write = sys.stdout.write
    write(f"torch {torch.__version__}, triton {_version('triton')}\n")
    write(f"backend asked for: {kernels.current_backend()}\n")
    for place in (torch.device("cpu"), *gpus):
        name = torch.cuda.get_device_name(place) if place.type == "cuda" else "this processor"
        write(f"\n{place} ({name}), {options.precision}\n")
        for operator, arguments in example_calls(dtypes[options.precision], place).items():
            try:
                explanation = kernels.explain(getattr(kernels, operator), *arguments)
            except ValueError as error:  # asked for by name, and cannot run here
                write(f"  {operator:22}{error}\n")
                continue
            write(f"  {operator:22}{_NAMES[explanation.implementation]}\n")
            for other, reason in explanation.why_not.items():
                write(f"  {'':22}  not {other}: {reason}\n")
        if place.type == "cpu" and options.precision == "fp32":
            reason = kernels.split_product.why_not_available()
            products = "split, at inference" if reason is None else f"float32: {reason}"
            write(f"  {'products':22}{products}\n")
    if not gpus:
        write("\nno GPU is visible to torch; the Triton kernels would run there\n")


def example_calls(of: dtype, on: device) -> dict[str, tuple[Any, ...]]:
    """The smallest call of every operator that has several implementations, by its name."""
    import torch

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=of, device=on)

    shapes, valid = [(2, 3)], torch.tensor([[[2, 3]]], dtype=torch.int32, device=on)
    value, offsets, weights = zeros(1, 6, 1, 4), zeros(1, 2, 1, 1, 1, 2), zeros(1, 2, 1, 1, 1)
    points = torch.zeros(1, 2, 1, 2, device=on)
    clips = torch.zeros(1, dtype=torch.int64, device=on)
    head = (zeros(1, 1, 8, 2, 3), zeros(1, 169), torch.zeros(1, 1, 2, device=on), clips)
    targets = torch.zeros(1, 1, 4, 6, dtype=torch.bool, device=on)
    return {
        "ms_deform_attn": (value, shapes, offsets, weights),
        "ms_deform_attn_fused": (value, shapes, offsets, weights, points, valid),
        "dynamic_mask_head": head,
        "dynamic_mask_loss": (*head, targets),
        "threshold_masks": (zeros(1, 2, 3), (4, 6)),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed: no Triton kernels"
