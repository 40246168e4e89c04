"""`train.py PRESET --memory-report`: what one process of a run will keep on its GPU.

The real step (forward, losses, backward, with recomputation and frame chunks as set) runs on the
meta device, where tensors have sizes but no memory, while `Ledger` counts what is alive. Operators
that a GPU fuses count as what they take and give: attention, deformable attention, the mask head.
Not counted: the CUDA context, cuDNN's and cuBLAS's own workspaces and fragmentation, together about
1 to 2 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from seqformer._kernels import kernels
from seqformer.config import TrainConfig
from seqformer.criterion import Matches, SetCriterion
from seqformer.distributed.context import DistributedContext
from seqformer.distributed.environment import launch
from seqformer.model import build_model_from_config, lean_autograd
from seqformer.structures import ClipBatch
from seqformer.trainer.parallel import build_replica
from seqformer.trainer.parallel.replica import units_of
from seqformer.trainer.precision import Precision, keep_float32_islands
from seqformer.trainer.regions import apply_regions
from seqformer.trainer.step import TrainingStep

INSTANCES = 10
"""Instances per clip that the report assumes."""
META = torch.device("meta")
KERNELS = ("ms_deform_attn_fused", "dynamic_mask_head", "dynamic_mask_loss")
"""What the model and the criterion call in training."""


@dataclass(frozen=True)
class MemoryReport:
    """Bytes on one GPU.

    Attributes:
        parameters: weights and buffers, this process's share.
        gathered: under FSDP, the two largest units that are whole at once.
        gradients: of trained parameters, this process's share; all of them where a step has several
            backward passes, before the last of which nothing is exchanged.
        optimizer: two moments per trained parameter, this process's share.
        activations: inputs, and what the forward pass and the losses keep for the backward pass.
        workspace: what comes on top at the worst moment.
        shape: (clips, frames, height, width) of a micro-batch.
    """

    parameters: int
    gathered: int
    gradients: int
    optimizer: int
    activations: int
    workspace: int
    shape: tuple[int, int, int, int]

    @property
    def total(self) -> int:
        """The sum, at the worst moment of a step."""
        parts = (self.parameters, self.gathered, self.gradients, self.optimizer)
        return sum(parts) + self.activations + self.workspace

    def __str__(self) -> str:
        names = ("parameters", "gathered", "gradients", "optimizer", "activations", "workspace")
        lines = [f"{name:12}{getattr(self, name) / 2**30:8.2f} GB" for name in names]
        B, T, H, W = self.shape
        return "\n".join(
            [
                f"One process, {B} clip(s) of {T} frames, {H}x{W} pixels, {INSTANCES} instances:",
                *lines,
                f"{'together':12}{self.total / 2**30:8.2f} GB, and 1 to 2 GB for CUDA itself",
            ]
        )


def memory_report(config: TrainConfig, size: tuple[int, int] | None = None) -> MemoryReport:
    """Count the memory of one step.

    Args:
        config: the run; torchrun's variables say how many processes share it.
        size: height and width of the padded frames; default the largest that augmentation makes.

    Raises: ValueError when the processes do not fit the mode.
    """
    with torch.device(META):
        model = build_model_from_config(config.model)
    model.train()
    precision = Precision("fp32", torch.device("cpu"))
    low = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.compute.precision]
    if low is not None:
        keep_float32_islands(model)
    apply_regions(
        model, recompute=config.compute.recompute, channels_last=config.compute.channels_last
    )
    step = TrainingStep(
        build_replica(model, "none", DistributedContext(device=META)),
        SetCriterion.from_config(config.loss),
        torch.optim.SGD(model.parameters()),
        precision,
        frame_chunk=config.compute.frame_chunk,
    )
    step.criterion.matcher = _PretendedMatcher()
    H, W = size or _largest_frame(config)
    shape = (config.data.batch_size, config.data.num_frames, H, W)
    for parameter in model.parameters():  # of the micro-batch before
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    ledger = Ledger()
    kept: list[int] = []
    in_chunks = 0 < step.frame_chunk < shape[1]
    with _gpu_operators(ledger, low, kept), ledger:
        batch = _batch(shape)
        losses = step._backward(batch, 1.0, in_chunks, is_last=True)
        del losses
    weights = [*model.parameters(), *model.buffers()]
    trained = [p for p in model.parameters() if p.requires_grad]
    shards = _shards(config)
    gradients = _nbytes(trained)
    keeps_gradients = in_chunks or _micro_batches(config) > 1
    return MemoryReport(
        parameters=_nbytes(weights) // shards,
        gathered=0 if shards == 1 else 2 * _largest_unit(model, low),
        gradients=gradients // (1 if keeps_gradients else shards),
        optimizer=2 * gradients // shards,
        activations=max(kept),
        workspace=ledger.peak - max(kept),
        shape=shape,
    )


class Ledger(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it that are still alive.

    Attributes:
        alive: bytes now.
        peak: most bytes at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._paused = 0
        self._known: WeakKeyDictionary = WeakKeyDictionary()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._paused:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._enter(leaf)
        return result

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, nothing is counted."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = -(-storage.nbytes() // 512) * 512  # CUDA's allocator rounds up
        self._known[storage] = None
        self.alive += size
        self.peak = max(self.peak, self.alive)
        finalize(storage, self._leave, size)

    def _leave(self, size: int) -> None:
        self.alive -= size


class _Fused(torch.autograd.Function):
    """Stands for a fused operator: keeps inputs and perhaps output, makes nothing in between."""

    @staticmethod
    def forward(
        ctx: Any, ledger: Ledger, run: Callable[..., Any], keeps_output: bool, *leaves: Any
    ) -> Any:
        with ledger.paused():
            shaped = run(*leaves)
        is_tuple = isinstance(shaped, tuple)
        outputs = tuple(map(torch.empty_like, shaped if is_tuple else (shaped,)))
        ctx.is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        ctx.save_for_backward(*tensors, *(outputs if keeps_output else ()))
        return outputs if is_tuple else outputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        gradients: list[Tensor | None] = []
        for is_tensor, needed in zip(ctx.is_tensor, ctx.needs_input_grad[3:], strict=True):
            tensor = next(saved) if is_tensor else None
            gradients.append(torch.empty_like(tensor) if needed else None)
        return None, None, None, *gradients


def _autocast(device: str, *arguments: Any, **options: Any) -> AbstractContextManager[None]:
    """In the place of torch.autocast, which does not know the meta device: where the model switches
    it off, this leaves a mark that `_gpu_operators` looks for."""
    is_island = device == "meta" and options.get("enabled") is False
    return torch._C.DisableTorchFunction() if is_island else nullcontext()


@contextmanager
def _gpu_operators(
    ledger: Ledger, low: torch.dtype | None, alive_before_backward: list[int]
) -> Iterator[None]:
    """Inside, what is alive when a backward pass begins is noted; attention and our kernels count
    as one operator each; and linear layers, convolutions and attention cast as autocast does, which
    torch does not have for the meta device."""

    def cast(value: Any) -> Any:
        # Where autocast is off, see `_autocast`.
        keep = low is None or torch._C._is_torch_function_all_disabled()
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(low) if is_float and not keep else value

    def casting(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: run(*map(cast, args))

    def fused(run: Callable[..., Any], *, is_attention: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            leaves, structure = tree_flatten((args, kwargs))

            def rebuilt(*leaves: Any) -> Any:
                args, kwargs = tree_unflatten(leaves, structure)
                return run(*args, **kwargs)

            leaves = map(cast, leaves) if is_attention else leaves
            return _Fused.apply(ledger, rebuilt, is_attention, *leaves)

        return call

    def noting(run: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            alive_before_backward.append(ledger.alive)
            run(*args, **kwargs)

        return call

    replaced = [
        (torch.autograd, "backward", noting),
        (torch, "autocast", lambda run: _autocast),
        *((kernels, name, partial(fused, is_attention=False)) for name in KERNELS),
        (F, "scaled_dot_product_attention", partial(fused, is_attention=True)),
        (F, "linear", casting),
        (F, "conv2d", casting),
        (lean_autograd, "as_autocast", lambda run: lambda device, *args: list(map(cast, args))),
    ]
    originals = [getattr(place, name) for place, name, _ in replaced]
    try:
        for (place, name, make), run in zip(replaced, originals, strict=True):
            setattr(place, name, make(run))
        with kernels.use_backend("reference"):
            yield
    finally:
        for (place, name, _), run in zip(replaced, originals, strict=True):
            setattr(place, name, run)


def _batch(shape: tuple[int, int, int, int]) -> ClipBatch:
    B, T, H, W = shape
    target = {
        "labels": torch.empty(INSTANCES, dtype=torch.int64, device=META),
        "boxes": torch.empty(INSTANCES, T, 4, device=META),
        "masks": torch.empty(INSTANCES, T, H, W, dtype=torch.bool, device=META),
        "size": (H, W),
    }
    return ClipBatch(
        images=torch.empty(B, T, 3, H, W, device=META),
        padding_mask=torch.empty(B, H, W, dtype=torch.bool, device=META),
        targets=[dict(target) for _ in range(B)],
    )


class _PretendedMatcher:
    """Finds some assignment; its values do not matter where nothing has values."""

    def begin(self, class_logits: Tensor, boxes: Tensor, targets: list) -> _PretendedMatcher:
        self._shape = class_logits.shape[:2]
        return self

    def finish(self) -> Matches:
        D, B = self._shape
        index = torch.empty(D * B * INSTANCES, dtype=torch.int64, device=META)
        host = [[(range(INSTANCES), range(INSTANCES))] * B for _ in range(D)]
        return Matches(index, index.clone(), index.clone(), index.clone(), host)


def _largest_frame(config: TrainConfig) -> tuple[int, int]:
    """Height and width of the largest padded frame that augmentation can make."""
    augment = config.data.augment
    up = lambda n: -(-n // 32) * 32  # noqa: E731
    return up(max(augment.short_sides)), up(augment.max_long_side)


def _world_size() -> int:
    return launch().world_size


def _micro_batches(config: TrainConfig) -> int:
    """Backward passes of a process in a step."""
    clips = config.data.global_batch_size or config.data.batch_size * _world_size()
    return -(-clips // (_world_size() * config.data.batch_size))


def _shards(config: TrainConfig) -> int:
    """How many processes share a parameter."""
    world = _world_size()
    if config.distributed.parallel == "fsdp":
        return world
    if config.distributed.parallel != "hsdp":
        return 1
    replicas = config.distributed.hsdp_replicas or world // (launch().local_world_size or world)
    if world % replicas:
        raise ValueError(f"{world} processes cannot form {replicas} equal replicas")
    return world // replicas


def _largest_unit(model: Any, low: torch.dtype | None) -> int:
    largest = max(sum(p.numel() for p in unit.parameters()) for unit in units_of(model))
    return largest * (low or torch.float32).itemsize


def _nbytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
