"""One optimiser step over the micro-batches of this process; knows nothing of files or schedules.

The losses are sums over instances divided by the instance count of the *global* batch, all
processes and micro-batches, clamped to 1 once. So the gradient depends on neither how clips are
spread over processes nor how many go through the model at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.profiler import record_function

from seqformer.criterion import SetCriterion
from seqformer.structures import ClipBatch, ClipOutput, ClipTargets
from seqformer.trainer.frame_chunks import backward_in_chunks
from seqformer.trainer.optim import clip_gradients
from seqformer.trainer.parallel_model import ParallelModel
from seqformer.trainer.precision import Precision


class TrainingStep:
    """Forward, losses, backward, update; see `__call__`."""

    def __init__(
        self,
        parallel_model: ParallelModel,
        criterion: SetCriterion,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        *,
        clip_max_norm: float = 0.0,
        frame_chunk: int = 0,
    ) -> None:
        """
        Args:
            parallel_model: the model, in training mode.
            criterion: matching and losses.
            optimizer: fused, so that a step can be called off on the device.
            precision: of the forward pass.
            clip_max_norm: largest norm of the whole gradient; 0 turns clipping off.
            frame_chunk: frames that go through the box stream at once; 0 takes all.
        """
        self.parallel_model, self.criterion, self.optimizer = parallel_model, criterion, optimizer
        self.precision, self.clip_max_norm, self.frame_chunk = precision, clip_max_norm, frame_chunk
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, batches: Sequence[ClipBatch], num_instances: float) -> dict[str, Tensor]:
        """Take one step.

        Args:
            batches: this process's micro-batches, on the model's device.
            num_instances: instances of the global batch.

        Returns: the weighted sum as `loss`, every part of it, `grad_norm` before clipping, and
            `skipped`: 1 where loss or gradient are not finite on any process, and so nothing was
            updated. All on the device; losses are of this process, times the number of processes,
            so that their mean over processes is the loss of the global batch.
        """
        # Gradients are averaged over processes, but should be summed.
        normaliser = max(num_instances, 1.0) / self.parallel_model.parallel.world_size
        self.optimizer.zero_grad(set_to_none=True)
        in_chunks = 0 < self.frame_chunk < batches[0].images.shape[1]
        of_batches = [
            self._backward(batch, normaliser, in_chunks, is_last=batch is batches[-1])
            for batch in batches
        ]
        if in_chunks:
            self.parallel_model.average_gradients()
        losses = _joined(of_batches)
        with record_function("step/update"):
            return losses | self._update(losses["loss"])

    def _backward(
        self, batch: ClipBatch, normaliser: float, in_chunks: bool, is_last: bool
    ) -> dict[str, Tensor]:
        """Add the gradient of one micro-batch. Returns: its losses, detached."""

        def backward(output: ClipOutput) -> dict[str, Tensor]:
            with record_function("step/losses"):
                losses = self._losses(output.float(), batch.targets, normaliser)
            with record_function("step/backward"):
                self.precision.scaler.scale(losses["loss"]).backward()
            return {name: value.detach() for name, value in losses.items()}

        if in_chunks:
            return backward_in_chunks(
                self.parallel_model, self.precision, batch, self.frame_chunk, backward, is_last
            )
        with self.parallel_model.accumulating(is_last):
            with record_function("step/forward"), self.precision.autocast():
                output = self.parallel_model.forward(batch.images, batch.padding_mask)
            return backward(output)

    def _losses(
        self, output: ClipOutput, targets: list[ClipTargets], normaliser: float
    ) -> dict[str, Tensor]:
        """All losses and their weighted sum.

        Where predictions or boxes are not finite nothing can be matched. Then everything is NaN,
        the gradient of every parameter too, so that all processes see it and stay in step.
        """
        try:
            losses = self.criterion(output, targets, normaliser)
        except ValueError:
            if is_finite(output.class_logits, output.boxes, *(t["boxes"] for t in targets)):
                raise
            names = self.criterion.names(output.class_logits.shape[0])
            nan = output.total() * math.nan
            return {"loss": nan, **dict.fromkeys(names, nan)}
        return {"loss": self.criterion.weighted_sum(losses), **losses}

    def _update(self, loss: Tensor) -> dict[str, Tensor]:
        scaler, optimizer = self.precision.scaler, self.optimizer
        if scaler.is_enabled():
            scaler.unscale_(optimizer)
        norm = clip_gradients(self._parameters, self.clip_max_norm)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        skipped = ~(norm.isfinite() & loss.isfinite())
        skipped = self.parallel_model.parallel.maximum(skipped.float())
        # The protocol of GradScaler and fused optimisers: where it is 1, nothing changes.
        optimizer.found_inf = skipped  # type: ignore[attr-defined]
        optimizer.step()
        if scaler.is_enabled():
            scaler.update()
        return {"grad_norm": norm, "skipped": skipped}


def _joined(of_batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Losses of the micro-batches together: those with a normaliser add up, the others are shares
    or counts of a clip, of which the mean is told."""
    together = {}
    for name in of_batches[0]:
        stacked = torch.stack([of_batch[name] for of_batch in of_batches])
        together[name] = stacked.sum(0) if name.startswith("loss") else stacked.mean(0)
    return together


def is_finite(*tensors: Tensor) -> bool:
    """Whether no number in them is NaN or infinite. One synchronisation with the device."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
