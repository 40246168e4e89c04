"""What goes between data, model, criterion, inference and trainer.

Letters: B clips, T frames, Q queries, C channels, L levels, K classes, N instances,
D decoder layers, G generated mask-head weights, H x W padded frame size,
h x w = size of the finest feature level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TypedDict, cast

import torch
from torch import Tensor


class ClipTargets(TypedDict, total=False):
    """Ground truth of one clip, in the clip's own size (after augmentation, before padding)."""

    labels: Tensor
    """[N] int64, output index of the class (see `ClassMap`)."""
    boxes: Tensor
    """[N, T, 4] float32, (cx, cy, w, h) of the unpadded frame; absent: four times 1e-6."""
    masks: Tensor
    """[N, T, H, W] bool."""
    size: tuple[int, int]
    """(H, W) of the clip before padding."""


@dataclass
class ClipBatch:
    """A training batch.

    Attributes:
        images: [B, T, 3, H, W] float32, normalised, zero where padded.
        padding_mask: [B, H, W] bool, True on padding (frames of a clip share their size).
        targets: one `ClipTargets` per clip.
        ids: one readable origin per clip ("video 12, frames 3 5 9"), for messages.
        broken: what was wrong with items that were skipped on the way.
    """

    images: Tensor
    padding_mask: Tensor
    targets: list[ClipTargets]
    ids: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def to(self, device: torch.device | str) -> ClipBatch:
        """The same batch with every tensor on `device`."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> ClipBatch:
        """Called by DataLoader(pin_memory=True)."""
        return self._with(Tensor.pin_memory)

    def _with(self, made_of: Callable[[Tensor], Tensor]) -> ClipBatch:
        """The same batch with other tensors in the place of its own."""
        targets = [
            {k: made_of(v) if isinstance(v, Tensor) else v for k, v in target.items()}
            for target in self.targets
        ]
        return replace(
            self,
            images=made_of(self.images),
            padding_mask=made_of(self.padding_mask),
            targets=cast(list[ClipTargets], targets),
        )


@dataclass
class ClipOutput:
    """What the model says about a batch of clips; D decoder layers stacked first.

    Attributes:
        class_logits: [D, B, Q, K], before the sigmoid.
        boxes: [D, B, T, Q, 4], (cx, cy, w, h) in 0..1 of the unpadded frame.
        mask_params: [D, B, Q, G], parameters of the dynamic mask head.
        reference_points: [D, B, T, Q, 2], (x, y) in 0..1, the references that *entered* each layer;
            mask coordinates are relative to them.
        mask_features: [B, T, 8, h, w], output of the mask branch at `mask_stride`.
        mask_stride: input pixels per cell of `mask_features`.
    """

    class_logits: Tensor
    boxes: Tensor
    mask_params: Tensor
    reference_points: Tensor
    mask_features: Tensor
    mask_stride: int

    def float(self) -> ClipOutput:
        """The same with half-precision numbers as float32; wider ones stay as they are."""
        wide = lambda v: v.to(torch.promote_types(v.dtype, torch.float32))  # noqa: E731
        return replace(self, **{name: wide(v) for name, v in self._tensors().items()})

    def total(self) -> Tensor:
        """The sum of everything, attached to whatever made it."""
        return torch.stack([v.sum() for v in self._tensors().values()]).sum()

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "mask_stride"}


@dataclass(frozen=True)
class ClassMap:
    """Output index of the classifier <-> category of the annotation file.

    Attributes:
        ids: for each of the K outputs its category id; -1 where the output stands for none.
        names: for each output its name ("" where it stands for none).
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise ValueError(f"ClassMap has {len(self.ids)} ids but {len(self.names)} names")
        known = [i for i in self.ids if i >= 0]
        if len(set(known)) != len(known):
            raise ValueError("ClassMap has a category id twice; ids must be unique")

    @property
    def num_classes(self) -> int:
        """K, the number of classifier outputs."""
        return len(self.ids)

    @property
    def index_of(self) -> dict[int, int]:
        """Category id -> output index."""
        return {category: index for index, category in enumerate(self.ids) if category >= 0}

    @classmethod
    def from_categories(cls, categories: list[dict]) -> ClassMap:
        """Outputs in ascending order of category id, one per category; ids may have gaps."""
        ordered = sorted(categories, key=lambda c: c["id"])
        return cls(tuple(int(c["id"]) for c in ordered), tuple(str(c["name"]) for c in ordered))

    @classmethod
    def published(cls, categories: list[dict], num_classes: int = 42) -> ClassMap:
        """The published layout: the output index *is* the category id; unused outputs stay.

        parity: of the 42 outputs, 0 and 41 belong to no YouTube-VIS category, yet the published
        inference lets them win and writes their index as `category_id`.
        """
        names = {int(c["id"]): str(c["name"]) for c in categories}
        outside = sorted(i for i in names if not 0 <= i < num_classes)
        if outside:
            raise ValueError(
                f"category ids {outside[:5]} do not fit the published layout of {num_classes} "
                "outputs; use --data.class-layout from_data, which takes any ids"
            )
        return cls(
            tuple(range(num_classes)),
            tuple(names.get(i, f"unused_{i}") for i in range(num_classes)),
        )

    def to_dict(self) -> dict:
        """Plain lists for JSON and checkpoints."""
        return {"ids": list(self.ids), "names": list(self.names)}

    @classmethod
    def from_dict(cls, state: dict) -> ClassMap:
        """Inverse of `to_dict`."""
        return cls(tuple(int(i) for i in state["ids"]), tuple(str(n) for n in state["names"]))
