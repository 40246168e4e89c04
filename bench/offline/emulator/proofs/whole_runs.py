"""`train.py` and `eval.py`, whole, with every launch emulated, beside the plain PyTorch definition.

The demo's command draws a data set, trains, validates, writes weights and draws what was found;
the evaluation command then runs those weights. Both are run twice by their own code. Weights start
scattered, since a new model's samples lie exactly on the lines where the gradient jumps.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import kernels
from bench.offline.emulator.proofs.proof import Proof
from bench.offline.emulator.session import EmulatedGPU

LIMITS = {"fp32": (2e-5, 1e-3), "bf16": (2e-2, 1e-1)}
"""Relative differences of losses and of all gradients together. Both sides round, and a sample that
falls on the other side of a line between cells changes a gradient. The first steps in fp16 are
skipped, until the scale of the loss fits."""
RESULTS = {"fp32": (1e-4, 3), "bf16": (2e-2, 60), "fp16": (2e-3, 20)}
"""Differences of scores, and of pixels of a mask, of 3840."""
MODEL = {
    "hidden_dim": 64,
    "num_heads": 2,
    "num_levels": 4,
    "num_points": 4,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "ffn_dim": 64,
    "num_queries": 8,
    "mask_dim": 16,
}
"""Heads of 32 channels as in the published model; as many levels and points; little else of it."""


def proofs() -> Iterator[Proof]:
    """Training in each precision, then inference."""
    for precision in LIMITS:
        yield Proof(
            name=f"train.py {precision}",
            run=lambda gpu, precision=precision: _train(gpu, precision),
            extent="quick" if precision == "fp32" else "default",
        )
    for precision in RESULTS:
        yield Proof(
            name=f"eval.py {precision}",
            run=lambda gpu, precision=precision: _evaluate(gpu, precision, True),
            extent="quick" if precision == "fp32" else "default",
        )
    yield Proof(name="eval.py, no C compiler", run=lambda gpu: _evaluate(gpu, "fp32", False))


def demo_command(folder: Path, *more: str) -> list[str]:
    """The demo, tiny: two steps, one held-out video."""
    words = f"demo --output {folder} --device cpu --processes 1 --max-steps 2 --log-every 1"
    words += (
        " --num-train-videos 2 --num-val-videos 1 --video-length 3 --frame-size 48 80 --data-seed 2"
    )
    words += " --data.num-frames 2 --data.batch-size 2 --data.num-workers 0 --eval.short-side 48"
    words += " --data.augment.short-sides 48 --data.augment.max-long-side 80"
    for name, size in MODEL.items():
        words += f" --model.{name.replace('_', '-')} {size}"
    return [*words.split(), *more]


def write_weights(path: Path) -> None:
    """A model of these sizes whose samples scatter."""
    from bench.suite.model_inputs import randomise
    from seqformer.model import build_model, save_safetensors
    from seqformer.structures import ClassMap

    torch.manual_seed(5)
    model = randomise(build_model("resnet_mini", num_classes=5, **MODEL))
    names = ("disc", "triangle", "star", "cross", "ring")
    save_safetensors(path, model, ClassMap((1, 2, 3, 4, 5), names))


def _train(gpu: EmulatedGPU, precision: str) -> None:
    from seqformer.cli.train import main as run
    from seqformer.trainer.run_log import read_training_lines

    with tempfile.TemporaryDirectory() as name:
        folder, weights = Path(name), Path(name) / "start.safetensors"
        write_weights(weights)
        sides = {}
        for side, backend in (("emulated", "auto"), ("reference", "reference")):
            command = demo_command(folder / side, "--precision", precision)
            command += ["--weights", str(weights), "--no-drop-class-heads"]
            with quiet(), kernels.use_backend(backend), gradients_of_steps() as steps:
                run(command)
            sides[side] = (read_training_lines(folder / side / "log.jsonl"), steps)
        (lines, steps), (exact_lines, exact_steps) = sides["emulated"], sides["reference"]
        losses, gradients = LIMITS[precision]
        # Later steps start from weights that Adam moved by the signs of tiny gradients.
        assert len(lines) == len(exact_lines) == len(steps) == len(exact_steps) == 2
        for line, exact in zip(lines, exact_lines, strict=True):
            for key in (key for key in exact if key.startswith("loss")):
                error = abs(line[key] - exact[key]) / max(abs(exact[key]), 1e-3)
                limit = losses if line is lines[0] else 5 * losses
                assert error <= limit, f"step {line['step']}: {key} differs by {error:.1e}"
        error = _relative(steps[0], exact_steps[0])
        assert error <= gradients, f"gradients differ by {error:.1e}"
        _compare_results(folder / "emulated", folder / "reference", precision)


def _evaluate(gpu: EmulatedGPU, precision: str, has_compiler: bool) -> None:
    from seqformer.cli.eval import main
    from seqformer.data.synthetic import SyntheticPaths, make_synthetic_dataset

    with tempfile.TemporaryDirectory() as name:
        folder, weights = Path(name), Path(name) / "model.safetensors"
        write_weights(weights)
        sizes = {"num_train": 1, "num_val": 2, "num_frames": 5, "height": 48, "width": 80}
        with quiet():
            make_synthetic_dataset(folder / "data", seed=3, **sizes)
        data = SyntheticPaths.under(folder / "data")
        for side, backend in (("emulated", "auto"), ("reference", "reference")):
            words = f"--weights {weights} --images {data.val_images} --device cpu --threads 1"
            words += f" --annotations {data.val_annotations} --short-side 48 --chunk-frames 2"
            words += f" --precision {precision} --output {folder / side / 'results.json'}"
            library = kernels.frame_masks.cpu.library if has_compiler else lambda *_: None
            no_library = mock.patch.object(kernels.frame_masks.cpu, "library", library)
            with quiet() as text, no_library, kernels.use_backend(backend):
                code = main(words.split())
            assert code == 0, f"eval.py failed: {text.getvalue().strip()[-300:]}"
        _compare_results(folder / "emulated", folder / "reference", precision)
        if not has_compiler:
            assert any("threshold" in kernel for kernel in gpu.kernels), "no mask was drawn"


def _compare_results(emulated: Path, reference: Path, precision: str) -> None:
    """The same entries of results.json, with the same scores and masks."""
    scores, pixels = RESULTS[precision]
    found, exact = (json.loads((f / "results.json").read_text()) for f in (emulated, reference))
    assert exact and len(found) == len(exact), f"{len(found)} results in place of {len(exact)}"
    for number, (one, other) in enumerate(zip(found, exact, strict=True)):
        for key in ("video_id", "category_id"):
            assert one[key] == other[key], f"result {number} has another {key}"
        error = abs(one["score"] - other["score"])
        assert error <= scores, f"result {number}: score differs by {error:.1e}"
        for frame, masks in enumerate(
            zip(one["segmentations"], other["segmentations"], strict=True)
        ):
            other_pixels = _different_pixels(*masks)
            assert other_pixels <= pixels, (
                f"result {number}, frame {frame}: {other_pixels} pixels differ"
            )


def _different_pixels(one: dict[str, Any] | None, other: dict[str, Any] | None) -> int:
    from pycocotools import mask

    drawn = [np.zeros(1, np.uint8) if m is None else mask.decode(m) for m in (one, other)]
    return int((drawn[0] != drawn[1]).sum())


@contextmanager
def gradients_of_steps() -> Iterator[list[dict[int, Tensor]]]:
    """Gradients of every optimiser step inside, by number of the parameter, as they are applied."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    steps: list[dict[int, Tensor]] = []

    def remember(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        every = [p for group in optimizer.param_groups for p in group["params"]]
        steps.append({i: p.grad.clone() for i, p in enumerate(every) if p.grad is not None})

    handle = register_optimizer_step_pre_hook(remember)
    try:
        yield steps
    finally:
        handle.remove()


def _relative(one: dict[int, Tensor], other: dict[int, Tensor]) -> float:
    """||one - other|| / ||other||, all tensors together."""
    assert one.keys() == other.keys(), "other parameters have gradients"
    error = sum(float((one[key] - other[key]).double().square().sum()) for key in one)
    scale = sum(float(other[key].double().square().sum()) for key in one)
    return (error / scale) ** 0.5


@contextmanager
def quiet() -> Iterator[io.StringIO]:
    """What the commands print goes into a text; threads and loggers are as before afterwards.

    Raises: AssertionError with the end of the text when a command stops the program.
    """
    import logging

    text, root, threads = io.StringIO(), logging.getLogger(), torch.get_num_threads()
    handlers, level = root.handlers[:], root.level
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(text))
        stack.enter_context(redirect_stderr(text))
        try:
            yield text
        except SystemExit as stop:
            raise AssertionError(f"it stopped: {text.getvalue().strip()[-300:]}") from stop
        finally:
            root.handlers[:], root.level = handlers, level
            torch.set_num_threads(threads)
