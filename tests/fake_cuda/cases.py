"""A training step and the inference of a video on fake CUDA tensors."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from seqformer.config import EvalConfig, ModelConfig, OptimConfig
from seqformer.criterion import SetCriterion
from seqformer.distributed.context import DistributedContext
from seqformer.inference import Predictor
from seqformer.inference.network import FrameChunk
from seqformer.model import SeqFormer
from seqformer.model.full_float32 import use_tf32
from seqformer.structures import ClipBatch
from seqformer.trainer.checkpoint import model_tensors, optimizer_tensors
from seqformer.trainer.compile_and_recompute import compile_and_recompute
from seqformer.trainer.loss_window import LossWindow
from seqformer.trainer.optim import apply_schedule, build_optimizer
from seqformer.trainer.parallel_model import build_parallel_model
from seqformer.trainer.precision import Precision, keep_float32_islands
from seqformer.trainer.step import TrainingStep
from tests.fake_cuda.standins import DEVICE
from tests.fake_cuda.watch import Watch

B, T, H, W, N = 2, 3, 64, 96, 2
ALL = ("backbone", "encoder", "decoder")


def train(
    watch: Watch,
    *,
    backbone: str = "resnet_mini",
    precision: str = "fp32",
    frame_chunk: int = 0,
    recompute: tuple[str, ...] = (),
    channels_last: bool = False,
    micro_batches: int = 1,
    dropout: float = 0.1,
    tf32: bool = True,
    clip_max_norm: float = 0.1,
    muon: float = 0.0,
) -> None:
    """One optimiser step as a run takes it. Raises: AssertionError saying what is out of order."""
    use_tf32(tf32)
    model = _model(backbone, dropout)
    model.train()
    how = Precision(precision, DEVICE)
    if how.low is not None:
        keep_float32_islands(model)
    compile_and_recompute(model, recompute=recompute, channels_last=channels_last)
    parallel = DistributedContext(device=DEVICE)
    step = TrainingStep(
        build_parallel_model(model, "none", parallel),
        SetCriterion(),
        build_optimizer(model, OptimConfig(muon=muon)),
        how,
        clip_max_norm=clip_max_norm,
        frame_chunk=frame_chunk,
    )
    apply_schedule(step.optimizer, OptimConfig(), 0, 10, 10)
    batches = [_batch() for _ in range(micro_batches)]
    watch.to_host = 0
    losses = step([batch.to(DEVICE) for batch in batches], 2.0)
    assert watch.to_host == micro_batches, f"{watch.to_host} copies to the host in a step"

    layers = [f"loss_{kind}" for kind in ("ce", "bbox", "giou", "mask", "dice")]
    assert {*layers, *(f"{name}_0" for name in layers)} <= losses.keys()
    for name, value in losses.items():
        assert value.device == DEVICE and value.shape == (), (name, value)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient"
            expected = (DEVICE, torch.float32, parameter.shape)
            found = (parameter.grad.device, parameter.grad.dtype, parameter.grad.shape)
            assert found == expected, f"gradient of {name}: {found}"
    window = LossWindow(parallel)
    window.add(1, ["a"], losses)
    assert window._pending[0][2].device == DEVICE
    states = optimizer_tensors(model, step.optimizer)
    assert len(states) > 0
    for state in (model_tensors(model), *states.values()):
        assert {t.device for t in state.values() if isinstance(t, torch.Tensor)} == {DEVICE}


def infer(
    watch: Watch,
    *,
    backbone: str = "resnet_mini",
    precision: str = "fp32",
    mode: str = "whole",
    tf32: bool = True,
) -> None:
    """A video of five frames through a Predictor, in chunks of two."""
    use_tf32(tf32)
    config = EvalConfig(
        short_side=64,
        precision=precision,
        mode=mode,
        chunk_frames=2,
        clip_length=4,
        clip_stride=2,
    )
    model = _model(backbone, 0.0)
    model.to = lambda device: model  # it is there; fake parameters cannot be moved in place
    predictor = Predictor(model, config=config, device=str(DEVICE))
    with watch.declared():
        predictor.network  # noqa: B018
    chunks = _noted(predictor)
    watch.to_host = 0
    with predictor.stream() as stream:
        for _ in range(5):
            stream.push(np.zeros((70, 104, 3), np.uint8))
        result = stream.tracks()
    assert watch.to_host == 3 * 4, f"{watch.to_host} copies to the host, expected 4 a chunk"
    assert [len(p.boxes) for p in chunks] == [2, 2, 1]
    low = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for chunk in chunks:
        t = len(chunk.boxes)
        wide = [*chunk.time_logits, chunk.references, chunk.boxes]
        assert {x.dtype for x in wide} == {torch.float32}
        assert chunk.mask_features.dtype == low
        everything = [*wide, *chunk.sampled, chunk.mask_features, chunk.is_finite]
        assert {x.device for x in everything} == {DEVICE}
        assert chunk.mask_features.shape[:2] == (t, 8) and chunk.boxes.shape == (t, 20, 4)
    assert result.num_frames == 5
    if mode == "whole":
        assert [len(d.segmentations) for d in result.detections] == [5, 5]


def _noted(predictor: Predictor) -> list[FrameChunk]:
    found: list[FrameChunk] = []
    run = predictor.network.frames
    predictor.network.frames = lambda *given: (found.append(run(*given)), found[-1])[1]
    return found


def _model(backbone: str, dropout: float) -> SeqFormer:
    config = ModelConfig(
        backbone=backbone,
        hidden_dim=64,
        num_heads=4,
        num_encoder_layers=1,
        num_decoder_layers=2,
        ffn_dim=64,
        num_queries=20,
        dropout=dropout,
        drop_path=0.1 if backbone.startswith("swin") else 0.0,
    )
    with torch.device(DEVICE):
        return SeqFormer(config)


def _batch() -> ClipBatch:
    """On the host: a clip with instances and one without, both padded."""
    h, w = H - 3, W - 5

    def targets(count: int) -> dict[str, Any]:
        return {
            "labels": torch.zeros(count, dtype=torch.int64),
            "boxes": torch.full((count, T, 4), 0.5),
            "masks": torch.zeros(count, T, h, w, dtype=torch.bool),
            "size": (h, w),
        }

    padding = torch.ones(B, H, W, dtype=torch.bool)
    padding[:, :h, :w] = False
    images = torch.zeros(B, T, 3, H, W)
    return ClipBatch(images, padding, [targets(N), targets(0)], ids=["a", "b"])


def run(watch: Watch, case: Callable[..., None], options: dict[str, Any]) -> str | None:
    """Returns: what is wrong, or None."""
    random.seed(0)
    watch.faults.clear()
    found = []
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), watch:
            case(watch, **options)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "seqformer" in f.filename]
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        found.append(f"{type(error).__name__}: {str(error)[:500]}{place}")
    return "; ".join([*sorted(watch.faults), *found]) or None
