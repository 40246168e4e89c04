"""The published formulation with its two inner functions through `torch.compile`.

Compiling a whole step would unroll its loops over frames and layers into graphs that take longer to
compile than a benchmark may run; what the loops call, once per frame and layer, is what there is to
gain from: deformable sampling and drawing masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest import mock

import torch

from bench.baselines.published import attention, masks


@contextmanager
def compiled_parts() -> Iterator[None]:
    """Inside, the published formulation calls the compiled functions."""
    with ExitStack() as stack:
        for module, name in ((attention, "sample_frame"), (masks, "dynamic_masks")):
            stack.enter_context(mock.patch.object(module, name, _compiled(getattr(module, name))))
        yield


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)
