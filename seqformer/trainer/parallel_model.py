"""One model on several processes: DDP, FSDP2 and HSDP behind one face.

DDP keeps the whole model on every process and averages gradients. FSDP2 keeps a share of every
parameter, gradient and optimiser moment on each process and gathers one unit (backbone stage,
transformer layer) at a time; HSDP does so inside groups of processes that repeat one another. No
search for unused parameters: those outside the graph have requires_grad False.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from seqformer.distributed.context import DistributedContext
from seqformer.model import SeqFormer
from seqformer.model.decoder import BoxStates
from seqformer.model.resnet import ResNet, ResNetMini
from seqformer.model.swin import SwinTransformer
from seqformer.structures import ClipOutput

Mode = Literal["ddp", "fsdp", "hsdp", "none"]


class _Methods(nn.Module):
    """The model's methods through one `forward`, where DDP and FSDP do their work."""

    def __init__(self, model: SeqFormer) -> None:
        super().__init__()
        self.model = model

    def forward(self, method: str, *args: Any) -> Any:
        return getattr(self.model, method)(*args)


@dataclass(frozen=True)
class ParallelModel:
    """A model as one process of several trains it.

    Attributes:
        model: its parameters are whole tensors, or under FSDP this process's shares (DTensors).
        parallel: the processes.
        mode: as the run has it; "none" for one process.
        wrapped: the model's methods, with communication around them.
    """

    model: SeqFormer
    parallel: DistributedContext
    mode: Mode
    wrapped: nn.Module

    @property
    def is_sharded(self) -> bool:
        """Whether parameters are DTensors."""
        return self.mode in ("fsdp", "hsdp")

    def forward(self, images: Tensor, padding_mask: Tensor | None = None) -> ClipOutput:
        """`SeqFormer.forward` of whole clips."""
        return self.wrapped("forward", images, padding_mask)

    def box_stream(self, frames: Tensor, padding_mask: Tensor | None) -> tuple[BoxStates, Tensor]:
        """`SeqFormer.box_stream` of some frames, for a backward pass in chunks of frames."""
        return self._unreduced()("box_stream", frames, padding_mask)

    def instances(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """`SeqFormer.instance_stream`, then `instance_heads`, for a backward pass in chunks.

        Returns: class logits [D, B, Q, K] and mask parameters [D, B, Q, G].
        """
        instances = self._unreduced()("instance_stream", pooled)
        return self._unreduced()("instance_heads", instances)

    def _unreduced(self) -> nn.Module:
        """Without DDP's preparations, which cannot follow a backward pass in chunks;
        `average_gradients` then takes their place. Under FSDP the same as `wrapped`."""
        if isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.module
        return self.wrapped

    @contextmanager
    def accumulating(self, is_last: bool) -> Iterator[None]:
        """Inside, backward adds to this process's gradients; the last one of a step also averages
        them over the processes."""
        if isinstance(self.wrapped, FSDPModule):
            self.wrapped.set_requires_gradient_sync(is_last)
            self.wrapped.set_is_last_backward(is_last)
            yield
        elif isinstance(self.wrapped, DistributedDataParallel) and not is_last:
            with self.wrapped.no_sync():
                yield
        else:
            yield

    def average_gradients(self) -> None:
        """Average what backward passes in chunks left; FSDP has done so in the last of them."""
        if not isinstance(self.wrapped, DistributedDataParallel):
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        for kind in sorted({g.dtype for g in gradients}, key=str):
            alike = [g for g in gradients if g.dtype == kind]
            flat = torch.cat([g.flatten() for g in alike])
            self.parallel.mean(flat)
            means = flat.split([g.numel() for g in alike])
            torch._foreach_copy_(alike, [p.view_as(g) for p, g in zip(means, alike, strict=True)])

    def plain_copy(self) -> SeqFormer:
        """The model as one process would have it, with whole weights of its own, for inference:
        processes may then use theirs as often as each likes. All processes take part."""
        config = replace(self.model.config, dropout=0.0, drop_path=0.0)
        with torch.device(self.parallel.device):
            copy = SeqFormer(config)
        own = copy.state_dict()
        for name, tensor in self.model.state_dict().items():
            own[name].copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)
        return copy.eval()


def build_parallel_model(
    model: SeqFormer,
    mode: Mode,
    parallel: DistributedContext,
    *,
    low_precision: torch.dtype | None = None,
    reshard: bool = True,
    replicas: int = 0,
) -> ParallelModel:
    """Put a model, equal on all processes, under the engine of a mode.

    Args:
        model: on its device; changed in place under FSDP.
        mode: for one process every mode is "none".
        low_precision: dtype in which FSDP gathers backbone stages; gradients are reduced, and
            parameters kept, in float32. None gathers float32.
        reshard: whether a unit's parameters are freed after its forward pass and gathered again
            for the backward one.
        replicas: of HSDP; 0 takes one per machine.

    Raises: ValueError when mode and processes do not fit.
    """
    if parallel.world_size == 1:
        return ParallelModel(model, parallel, "none", _Methods(model))
    if mode == "none":
        raise ValueError(
            f"--parallel none, but {parallel.world_size} processes were started; choose ddp, fsdp "
            "or hsdp, or start one process"
        )
    methods = _Methods(model)
    if mode == "ddp":
        return ParallelModel(model, parallel, mode, _ddp(methods, parallel.device))
    _shard(methods, _mesh(mode, parallel, replicas), low_precision, reshard)
    return ParallelModel(model, parallel, mode, methods)


def _ddp(methods: _Methods, device: torch.device) -> DistributedDataParallel:
    with warnings.catch_warnings():
        # torch 2.13 renames `broadcast_buffers`; torch 2.8 knows no other name.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        return DistributedDataParallel(
            methods,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            broadcast_buffers=False,  # they are constants
        )


def _mesh(mode: Mode, parallel: DistributedContext, replicas: int) -> DeviceMesh:
    world, kind = parallel.world_size, parallel.device.type
    if mode == "fsdp":
        return init_device_mesh(kind, (world,), mesh_dim_names=("shard",))
    replicas = replicas or parallel.nodes
    if world % replicas:
        raise ValueError(
            f"{world} processes cannot form {replicas} equal replicas; --hsdp-replicas must divide "
            "the number of processes"
        )
    return init_device_mesh(
        kind, (replicas, world // replicas), mesh_dim_names=("replicate", "shard")
    )


def _shard(
    methods: _Methods, mesh: DeviceMesh, low_precision: torch.dtype | None, reshard: bool
) -> None:
    """Units from the inside out. Only backbone stages, where most parameters are, are gathered in
    the low format: what makes coordinates and time weights stays float32."""
    # Inputs are not cast: positions and references among them must stay float32 too.
    whole = MixedPrecisionPolicy(cast_forward_inputs=False)
    low = MixedPrecisionPolicy(
        param_dtype=low_precision, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    # The model adds to what its layers return, never in place.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    model = methods.model
    for unit in _stages(model.backbone):
        policy = whole if low_precision is None else low
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
    for unit in (*model.encoder.layers, *model.decoder.layers):
        fully_shard(unit, mesh=mesh, mp_policy=whole, reshard_after_forward=reshard)
    for layer in model.decoder.layers:
        for method in ("box_stream", "instance_stream"):
            register_fsdp_forward_method(layer, method)
    fully_shard(methods, mesh=mesh, mp_policy=whole, reshard_after_forward=False)


def units_of(model: SeqFormer) -> list[nn.Module]:
    """What FSDP gathers at a time: backbone stages and transformer layers, inner ones first."""
    return [*_stages(model.backbone), *model.encoder.layers, *model.decoder.layers]


def _stages(backbone: nn.Module) -> list[nn.Module]:
    """The parts of a backbone that are called one after another, inner ones first."""
    if isinstance(backbone, ResNet):
        return [backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4]
    if isinstance(backbone, ResNetMini):
        return list(backbone.stages)
    if isinstance(backbone, SwinTransformer):
        merges = [stage.downsample for stage in backbone.layers if stage.downsample is not None]
        return [*merges, *backbone.layers]
    raise TypeError(f"{type(backbone).__name__} has no stages that FSDP knows")
