"""One optimiser step, which knows nothing of processes, files or schedules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqformer.criterion import SetCriterion
from seqformer.structures import ClipBatch
from seqformer.trainer.optim import clip_gradients
from seqformer.trainer.progress import NonFiniteLossError


def training_step(
    model: nn.Module,
    criterion: SetCriterion,
    optimizer: torch.optim.Optimizer,
    batch: ClipBatch,
    num_instances: Tensor,
    clip_max_norm: float,
) -> dict[str, Tensor]:
    """Forward, losses, backward, update.

    Args:
        model: in training mode; on several processes, the wrapped one.
        batch: on the model's device.
        num_instances: scalar on that device, the mean count over processes, at least 1.
        clip_max_norm: 0 turns clipping off.

    Returns: the weighted sum as `loss`, every part of it, and `grad_norm`; on the device.
    Raises: NonFiniteLossError when predictions or boxes are not finite, so that nothing can be
        matched. Other infinities are seen in what is returned.
    """
    output = model(batch.images, batch.padding_mask)
    try:
        losses = criterion(output, batch.targets, num_instances)
    except ValueError as error:
        if is_finite(output.class_logits, output.boxes, *(t["boxes"] for t in batch.targets)):
            raise
        raise NonFiniteLossError(str(error)) from error
    loss = criterion.weighted_sum(losses)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    grad_norm = clip_gradients(parameters, clip_max_norm)
    optimizer.step()
    parts = {name: value.detach() for name, value in losses.items()}
    return {"loss": loss.detach(), **parts, "grad_norm": grad_norm}


def is_finite(*tensors: Tensor) -> bool:
    """Whether no number in them is NaN or infinite. One synchronisation with the device."""
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
