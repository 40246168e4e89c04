"""Deformable attention in onnxruntime: GridSample beside rows that are gathered, in CPU seconds.

    pip install 'seqformer[export]'
    python -m bench.onnx_sampling

`seqformer export` writes the faster form. Both are made of standard operators and compute one
attention of the encoder and one of the decoder, of ResNet-50's sizes; each is held against the
operator. Runs alternate, and the least of each form counts.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from kernels import ms_deform_attn_fused
from seqformer.export.sampling import Sampling, Shapes, in_plain_operators, placed
from seqformer.export.writer import OPSET, quiet_exporter

HEADS, LEVELS, POINTS, CHANNELS = 8, 4, 4, 32
STRIDES = (8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print the CPU seconds of both forms."""

    frames: int = 2
    sizes: tuple[tuple[int, int], ...] = ((192, 320), (360, 640))
    """Height and width of the frames."""
    rounds: int = 5
    threads: int = 1


def by_gather(
    value: Tensor,
    shapes: Shapes,
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    valid_shapes: Tensor | None = None,
) -> Tensor:
    """Four rows of `value` per sample, gathered level by level, times their weights. Arguments and
    result as of `kernels.ms_deform_attn_fused`."""
    B, S, M, D = value.shape
    Q, P = offsets.shape[1], offsets.shape[4]
    locations, weights = placed(value, shapes, offsets, logits, reference)
    rows = value.reshape(-1, D)
    image = (torch.arange(B) * S)[:, None, None, None]
    parts, start = [], 0
    for level, (h, w) in enumerate(shapes):
        columns = _two_cells(locations[:, :, :, level, :, 0], w)
        lines = _two_cells(locations[:, :, :, level, :, 1], h)
        cells = [(y * w + x).long() for y, _ in lines for x, _ in columns]
        shares = [wy * wx * weights[:, :, :, level] for _, wy in lines for _, wx in columns]
        index = torch.stack(cells, -1).flatten(3) + (start + image)  # [B, Q, M, P*4]
        index = index * M + torch.arange(M)[:, None]
        taken = rows.index_select(0, index.flatten()).view(-1, P * 4, D)
        parts.append(torch.stack(shares, -1).reshape(-1, 1, P * 4) @ taken)
        start = start + h * w
    return torch.stack(parts).sum(0).reshape(B, Q, M * D)


def _two_cells(share: Tensor, cells: int) -> list[tuple[Tensor, Tensor]]:
    """The cells on both sides of a location, each with its weight, which is 0 outside."""
    position = share * cells - 0.5
    before = position.floor()
    part = position - before
    sides = ((before, 1 - part), (before + 1, part))
    zero = torch.zeros(())
    return [
        (c.clamp(min=0).clamp(max=cells - 1), torch.where((c >= 0) & (c <= cells - 1), p, zero))
        for c, p in sides
    ]


FORMS: dict[str, Sampling] = {"GridSample": in_plain_operators, "Gather": by_gather}


class _OneCall(nn.Module):
    """A form, with the shapes of levels that follow from the frame's size."""

    def __init__(self, form: Sampling) -> None:
        super().__init__()
        self.form = form

    def forward(self, frame: Tensor, *arguments: Tensor) -> Tensor:
        value, *rest = arguments
        return self.form(value, shapes_of(*frame.shape), *rest, None)


def shapes_of(height: int, width: int) -> list[tuple[int, int]]:
    """Of the levels."""
    return [((height - 1) // s + 1, (width - 1) // s + 1) for s in STRIDES]


def arguments_of(frames: int, height: int, width: int, is_encoder: bool) -> tuple[Tensor, ...]:
    """A frame of zeros that has the size; value, offsets, logits and references."""
    tokens = sum(h * w for h, w in shapes_of(height, width))
    queries = tokens if is_encoder else 300
    generator = torch.Generator().manual_seed(0)
    samples = (frames, queries, HEADS, LEVELS, POINTS)
    return (
        torch.zeros(height, width),
        torch.randn(frames, tokens, HEADS, CHANNELS, generator=generator),
        3 * torch.randn(*samples, 2, generator=generator),
        torch.randn(samples, generator=generator),
        torch.rand(frames, queries, LEVELS, 2, generator=generator),
    )


def session_of(form: Sampling, arguments: tuple[Tensor, ...], threads: int) -> Callable[..., Any]:
    """onnxruntime on a graph of the form, open in all sizes."""
    free = torch.export.Dim.DYNAMIC
    shapes = tuple({0: free, 1: free} for _ in arguments)
    with quiet_exporter(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = torch.onnx.export(
            _OneCall(form).eval(),
            arguments,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(shapes[0], shapes[1:]),
            verbose=False,
        )
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = runtime.InferenceSession(made.model_proto.SerializeToString(), options)
    names = [entry.name for entry in session.get_inputs()]

    def call(*given: Tensor) -> Tensor:
        feed = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return call


def compare(is_encoder: bool, options: Options, height: int, width: int) -> dict[str, float]:
    """Form -> least CPU seconds of a call. Raises: AssertionError when a form is wrong."""
    arguments = arguments_of(options.frames, height, width, is_encoder)
    _, value, *rest = arguments
    expected = ms_deform_attn_fused(value, shapes_of(height, width), *rest)
    sessions = {n: session_of(form, arguments, options.threads) for n, form in FORMS.items()}
    for session in sessions.values():
        torch.testing.assert_close(session(*arguments), expected, rtol=1e-4, atol=1e-4)
    best = dict.fromkeys(FORMS, float("inf"))
    for _ in range(options.rounds):
        for name, session in sessions.items():
            start = time.process_time()
            session(*arguments)
            best[name] = min(best[name], time.process_time() - start)
    return best


def main(options: Options) -> None:
    """A line for each size and attention."""
    torch.set_num_threads(options.threads)
    version = import_module("onnxruntime").__version__
    print(f"onnxruntime {version}, {options.frames} frames, {options.threads} threads, CPU seconds")
    for height, width in options.sizes:
        for is_encoder in (True, False):
            best = compare(is_encoder, options, height, width)
            part = "encoder" if is_encoder else "decoder"
            numbers = ", ".join(f"{name} {value:.4f}" for name, value in best.items())
            print(f"{height}x{width} {part}: {numbers}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
    sys.exit(0)
