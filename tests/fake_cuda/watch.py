"""What a GPU would be asked to do: traffic with the host, and which operators.

Tensors of two devices in one operator are refused by FakeTensorMode already, as is reading a value
(`.item()`, `if tensor:`). What it lets through is a copy between devices, which on a GPU waits, and
an operator between a GPU's tensor and a CPU's.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[2]
COPIES = {"_to_copy", "copy_", "_copy_from"}


class Watch(TorchDispatchMode):
    """Notes what is out of order.

    Attributes:
        faults: sentences with the operator and the place in our code.
        to_host: copies from the GPU that were declared (`HostCopy`).
        operators: names with overload, with the dtype of what they make.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.faults: set[str] = set()
        self.to_host = 0
        self.operators: set[tuple[str, torch.dtype | None]] = set()
        self._is_declared = False

    @contextmanager
    def declared(self) -> Iterator[None]:
        """Inside, copies between host and GPU are as they should be."""
        before, self._is_declared = self._is_declared, True
        try:
            yield
        finally:
            self._is_declared = before

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.ops.prim.device.default:  # in inference mode, operators come unopened
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        name = func.overloadpacket.__name__
        on_gpu = [x for x in given if x.device.type == "cuda"]
        if on_gpu:
            self.operators.add((str(func), (made or on_gpu)[0].dtype))
        before, after = {x.device for x in given}, {x.device for x in made}
        if len(before | after) > 1 and given:
            self._judge(name, before, after)
        for x in made:
            if x.device.type == "cuda" and x.device != self.device:
                self._fault(name, f"made a tensor on {x.device}")
        return result

    def _judge(self, name: str, before: set[torch.device], after: set[torch.device]) -> None:
        names = sorted(map(str, before | after))
        if name not in COPIES:
            self._fault(name, f"mixes {' and '.join(names)}")
        elif not self._is_declared:
            self._fault(name, f"copies between {' and '.join(names)}")
        elif torch.device("cpu") in after:
            self.to_host += 1

    def _fault(self, name: str, what: str) -> None:
        places = [
            f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"
            for frame in traceback.extract_stack()
            if Path(frame.filename).is_relative_to(ROOT)
            and not Path(frame.filename).is_relative_to(ROOT / "tests" / "fake_cuda")
        ]
        self.faults.add(f"{name} {what} at {places[-1] if places else 'no place of ours'}")
