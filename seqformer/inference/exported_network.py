"""An exported file in the place of a `FrameNetwork`: chunks of frames, and the instances so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqformer.devices import on_device, sent
from seqformer.export import open_exported
from seqformer.export.graph import OUTPUTS
from seqformer.inference.network import check_finite
from seqformer.model.full_float32 import full_float32


@dataclass(frozen=True)
class ExportedPool:
    """What the frames up to the end of a chunk add up to, and the instances that follow from it.

    Attributes:
        state: [D, 1, Q, C + 2], see `seqformer.export.graph`.
        class_logits: [Q, K]; mask_params: [Q, 169].
    """

    state: Tensor
    class_logits: Tensor
    mask_params: Tensor


@dataclass(frozen=True)
class ExportedChunk:
    """As `FrameChunk`; its pool is that of all frames up to its end."""

    pool_so_far: ExportedPool
    mask_features: Tensor
    references: Tensor
    boxes: Tensor
    is_finite: Tensor

    def merged_into(self, before: ExportedPool | None, together: int) -> ExportedPool:
        """The sums with those of the frames before, which the graph was given."""
        return self.pool_so_far


class ExportedNetwork:
    """An exported file on a device, ready for frames of any number.

    Attributes:
        device: where it computes.
        description: what the file says of itself.
        mask_stride: input pixels per cell of the mask features.
    """

    def __init__(
        self, path: str | Path, device: torch.device, run_native_code: bool = False
    ) -> None:
        self.device = device
        self.path = Path(path)
        self._run, self.description = open_exported(path, device, run_native_code)
        self.mask_stride = self.description.mask_stride
        self._mean, self._std = (
            torch.tensor(values).to(device)[:, None, None]
            for values in (self.description.mean, self.description.std)
        )

    @torch.inference_mode()
    def frames(
        self, resized: Sequence[np.ndarray], before: ExportedPool | None = None
    ) -> ExportedChunk:
        """Run t frames, uint8 RGB [H, W, 3] of network size, after those that `before` sums up.

        Raises: ValueError for frames that are too small, or when the file computes something else
            than it says.
        """
        least = self.description.least_side
        if min(resized[0].shape[:2]) < least:
            raise ValueError(
                f"{self.path} takes frames of at least {least} pixels a side, got "
                f"{resized[0].shape[1]}x{resized[0].shape[0]}; give a larger --short-side"
            )
        with on_device(self.device), full_float32():
            images = sent(torch.from_numpy(np.stack(resized)), self.device)
            images = images.permute(0, 3, 1, 2).contiguous().float().div_(255)
            images = images.sub_(self._mean).div_(self._std)[None]
            state = torch.zeros(self.description.state_shape, device=self.device)
            results = self._run(images, state if before is None else before.state)
        named = dict(zip(OUTPUTS, results, strict=True))
        self._check(named, len(resized))
        checked = (named["mask_features"], named["boxes"], named["next_state"])
        return ExportedChunk(
            pool_so_far=ExportedPool(
                named["next_state"], named["class_logits"][0], named["mask_params"][0]
            ),
            mask_features=named["mask_features"][0],
            references=named["reference_points"][0],
            boxes=named["boxes"][0],
            is_finite=torch.stack([tensor.isfinite().all() for tensor in checked]).all(),
        )

    def _check(self, named: dict[str, Tensor], frames: int) -> None:
        Q, K = self.description.state_shape[2], self.description.num_classes
        expected = {"class_logits": [1, Q, K], "boxes": [1, frames, Q, 4]}
        for name, shape in expected.items():
            if list(named[name].shape) != shape:
                raise ValueError(
                    f"{self.path} computes {name} {list(named[name].shape)}, not {shape} as it "
                    "says; export it again"
                )

    def instances(self, pool: ExportedPool) -> tuple[Tensor, Tensor]:
        """Class logits [Q, K] and mask parameters [Q, 169] of all frames so far.

        Raises: ValueError when they are not finite.
        """
        check_finite(pool.class_logits.isfinite().all() & pool.mask_params.isfinite().all())
        return pool.class_logits, pool.mask_params
