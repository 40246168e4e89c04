"""A checkpoint as one file: its weights alone, or the network as a graph for other programs.

seqformer export runs/r50/checkpoints/step_00010000 r50.safetensors
seqformer export r50.pth r50.pt2 --backbone resnet50
seqformer export r50.safetensors r50.onnx
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from seqformer.config import BackboneName

_BY_SUFFIX: dict[str, Literal["safetensors", "pt2", "onnx"]] = {
    ".safetensors": "safetensors",
    ".pt2": "pt2",
    ".onnx": "onnx",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a checkpoint as one file, with its classes and frame size.

    safetensors: the weights, which --weights reads. pt2: the network as a graph of torch.export,
    which runs where SeqFormer is not installed; plain PyTorch operators, so the Triton kernels and
    the C code do not travel with it. aoti: the same as machine code for this machine's CPU, also a
    .pt2 file; takes minutes and a C++ compiler, and whoever loads it runs its code. aoti-cuda: for
    this machine's GPU, with the Triton kernels; it has never been made, only its graph is tested.
    onnx: the graph with standard ONNX operators. onnx-tensorrt: with
    MultiscaleDeformableAttnPlugin_TRT nodes; it has never been run on TensorRT, only its structure
    is tested.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Folder of a checkpoint, RUN/checkpoints/step_*, or a weights file, ours or a released one."""
    output: Annotated[Path, tyro.conf.Positional]
    """File to write; its ending (.safetensors, .pt2, .onnx) says the format."""
    format: Literal["safetensors", "pt2", "aoti", "aoti-cuda", "onnx", "onnx-tensorrt"] | None = (
        None
    )
    """Instead of what the ending says."""
    backbone: BackboneName | None = None
    """Backbone of the weights; needed only where the file does not tell."""


def act(options: Options) -> None:
    """The command."""
    chosen = options.format or _BY_SUFFIX.get(options.output.suffix.lower())
    if chosen is None:
        raise ValueError(
            f"{options.output} does not say its format; end its name in one of "
            f"{', '.join(_BY_SUFFIX)}, or give --format"
        )
    if chosen == "safetensors":
        from seqformer.trainer.export import export_checkpoint

        export_checkpoint(options.checkpoint, options.output, options.backbone)
        return
    ending = ".pt2" if chosen in ("pt2", "aoti", "aoti-cuda") else ".onnx"
    if options.output.suffix.lower() != ending:
        raise ValueError(f"a file of format {chosen} should end in {ending}, not {options.output}")
    from seqformer.inference.predictor import Predictor

    predictor = Predictor.from_checkpoint(options.checkpoint, options.backbone, device="cpu")
    predictor.export(options.output, chosen)
