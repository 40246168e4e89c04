"""Parts of the model that keep their weights: `--freeze`."""

from __future__ import annotations

from collections.abc import Iterable

from seqformer.config.tuning import FrozenPart
from seqformer.model import SeqFormer

_PREFIXES: dict[FrozenPart, tuple[str, ...]] = {
    "backbone": ("backbone.",),
    "encoder": ("encoder.", "input_proj.", "level_embed"),
    "decoder": ("decoder.layers.", "query_embed.", "reference_points."),
    "class_heads": ("class_embed.",),
    "box_heads": ("decoder.bbox_embed.",),
    "mask_head": ("mask_branch.", "controller."),
}
"""Every parameter of the model begins with one of them."""


def is_frozen(name: str, parts: Iterable[FrozenPart]) -> bool:
    """Whether a parameter of our name belongs to one of the parts."""
    return any(name.startswith(_PREFIXES[part]) for part in parts)


def freeze(model: SeqFormer, parts: Iterable[FrozenPart]) -> None:
    """Take the gradients away from parts of a model; before DDP or FSDP see it.

    Dropout and stochastic depth inside them stay on; batch norms are constants anyway.

    Raises: ValueError when nothing is left to train.
    """
    parts = tuple(parts)
    for name, parameter in model.named_parameters():
        if is_frozen(name, parts):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("--freeze leaves nothing to train; name fewer parts")
