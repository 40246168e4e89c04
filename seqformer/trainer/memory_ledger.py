"""Memory counted on the meta device, where tensors have sizes but no memory.

`Ledger` counts what is alive. Inside `gpu_operators`, operators that a GPU fuses count as what they
take and give: attention, deformable attention, the mask head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from seqformer._kernels import kernels
from seqformer.model import memory_efficient

KERNELS = ("ms_deform_attn_fused", "dynamic_mask_head", "dynamic_mask_loss")
"""What the model and the criterion call in training."""


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
            gradients.append(None if tensor is None or not needed else torch.empty_like(tensor))
        return None, None, None, *gradients


def _autocast(device: str, *arguments: Any, **options: Any) -> AbstractContextManager[None]:
    """In the place of torch.autocast, which does not know the meta device: where the model switches
    it off, this leaves a mark that `gpu_operators` looks for."""
    is_island = device == "meta" and options.get("enabled") is False
    return torch._C.DisableTorchFunction() if is_island else nullcontext()


@contextmanager
def gpu_operators(
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

            taken = map(cast, leaves) if is_attention else leaves
            return _Fused.apply(ledger, rebuilt, is_attention, *taken)

        return call

    def noting(run: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            alive_before_backward.append(ledger.alive)
            run(*args, **kwargs)

        return call

    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        (torch.autograd, "backward", noting),
        (torch, "autocast", lambda run: _autocast),
        *((kernels, name, partial(fused, is_attention=False)) for name in KERNELS),
        (F, "scaled_dot_product_attention", partial(fused, is_attention=True)),
        (F, "linear", casting),
        (F, "conv2d", casting),
        (memory_efficient, "as_autocast", lambda run: lambda device, *args: list(map(cast, args))),
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


def num_bytes(tensors: Any) -> int:
    """Of all tensors together."""
    return sum(t.numel() * t.element_size() for t in tensors)
