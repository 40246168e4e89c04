"""A checkout of Deformable-DETR, or a descendant, on our operator: its own test, and its module.

    git clone https://github.com/fundamentalvision/Deformable-DETR
    python -m bench.extension Deformable-DETR/models/ops

Runs `test.py` of that folder as it is, with nothing built; then its `MSDeformAttn` beside ours with
the same weights, and fused in place. Without a GPU, `.cuda()` stays on the CPU. Numerical gradients
are checked in gradcheck's fast mode: the full one needs 18 GB for the widest of their sizes.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor, nn

from kernels import integrations

SIZES = ((24, 32), (12, 16), (6, 8), (3, 4))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what their test says, and one line for every comparison of modules."""
    parser = argparse.ArgumentParser(prog="python -m bench.extension", description=__doc__)
    parser.add_argument("folder", type=Path, help="with test.py, functions/ and modules/")
    folder = parser.parse_args(arguments).folder.resolve()
    for needed in ("test.py", "functions", "modules"):
        if not (folder / needed).exists():
            parser.error(f"{folder} has no {needed}; give the repository's models/ops")
    with integrations.use_as_extension():
        run_test(folder)
        compare_modules(theirs_of(folder))


def run_test(folder: Path) -> None:
    """Their script, unchanged."""
    check = functools.partial(torch.autograd.gradcheck, fast_mode=True)
    with (
        mock.patch.object(sys, "path", [str(folder), *sys.path]),
        mock.patch.object(torch.autograd, "gradcheck", check),
        mock.patch.object(torch.Tensor, "cuda", cuda_or_cpu),
    ):
        runpy.run_path(str(folder / "test.py"), run_name="__main__")


_cuda = torch.Tensor.cuda


def cuda_or_cpu(tensor: Tensor) -> Tensor:
    """On the GPU, where there is one."""
    return _cuda(tensor) if torch.cuda.is_available() else tensor


def theirs_of(folder: Path) -> type[nn.Module]:
    """`MSDeformAttn` of the folder, whose files import one another by relative names."""
    package = ModuleType("_theirs")
    package.__path__ = [str(folder)]
    sys.modules["_theirs"] = package
    return importlib.import_module("_theirs.modules.ms_deform_attn").MSDeformAttn


def compare_modules(kind: type[nn.Module]) -> None:
    """Outputs and gradients of theirs, through the extension's functions, and of ours."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    theirs, ours = kind(64, 4, 8, 4).to(device), integrations.MSDeformAttn(64, 4, 8, 4).to(device)
    for layer in (theirs.sampling_offsets, theirs.attention_weights):
        nn.init.normal_(layer.weight, std=0.1)
    ours.load_state_dict(theirs.state_dict())
    shapes = torch.tensor(SIZES, device=device)
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    tokens = int(shapes.prod(1).sum())
    source = torch.randn(2, tokens, 64, device=device)
    query, mask = torch.randn(2, 50, 64, device=device), torch.rand(2, tokens, device=device) < 0.1
    for numbers in (2, 4):
        points = torch.rand(2, 50, 4, numbers, device=device)
        given = (query, points, source, shapes, starts, mask)
        expected = results(theirs, given)
        with integrations.use_fused(theirs):
            fused = results(theirs, given)
        for name, found in (("ours", results(ours, given)), ("theirs, fused", fused)):
            worst = max(
                float((x - y).abs().max() / y.abs().max())
                for x, y in zip(found, expected, strict=True)
            )
            print(
                f"* {worst < 1e-5} MSDeformAttn, {numbers} numbers a reference, {name}: {worst:.1e}"
            )


def results(module: nn.Module, given: tuple[Tensor, ...]) -> list[Tensor]:
    """The output, and the gradient of every parameter."""
    output = module(*given)
    grads = torch.autograd.grad(output.square().sum(), list(module.parameters()))
    return [output.detach(), *grads]


if __name__ == "__main__":
    main()
