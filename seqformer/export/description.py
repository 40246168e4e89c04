"""What an exported file says of itself, as JSON inside it: enough to run it on videos."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..config import IMAGENET_MEAN, IMAGENET_STD, EvalConfig, config_from_dict, config_to_dict
from ..structures import ClassMap

NAME = "seqformer.json"
"""Of the extra file in a .pt2, and of the metadata in an .onnx."""
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Description:
    """An exported network.

    Attributes:
        version: of SeqFormer, that wrote the file.
        state_shape: [D, 1, Q, C + 2] of the state.
        num_classes: K.
        mask_stride: input pixels per cell of the mask features.
        least_side: least height and width of the frames, in pixels.
        classes: what the K outputs stand for; None where the checkpoint does not say it.
        config: frame size and so on that the checkpoint asks for.
        mean, std: by which frames in 0..1 are normalised, RGB.
    """

    version: str
    state_shape: tuple[int, int, int, int]
    num_classes: int
    mask_stride: int
    least_side: int
    classes: ClassMap | None
    config: EvalConfig
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def to_json(self) -> str:
        """The text that the file carries."""
        content = asdict(self) | {
            "format": FORMAT,
            "classes": None if self.classes is None else self.classes.to_dict(),
            "config": config_to_dict(self.config),
        }
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Description:
        """Inverse of `to_json`. Raises: ValueError naming the file when it says something else."""
        try:
            content: dict[str, Any] = json.loads(text)
            if content.pop("format") != FORMAT:
                raise ValueError("its format is of another version")
            classes = content.pop("classes")
            described = cls(
                version=str(content["version"]),
                state_shape=_integers(content["state_shape"], 4),
                num_classes=_integers([content["num_classes"]], 1)[0],
                mask_stride=_integers([content["mask_stride"]], 1)[0],
                least_side=_integers([content["least_side"]], 1)[0],
                classes=None if classes is None else ClassMap.from_dict(classes),
                config=config_from_dict(EvalConfig, content["config"]),
                mean=_numbers(content["mean"]),
                std=_numbers(content["std"]),
            )
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} has no proper description of a SeqFormer ({error}); export it again"
            ) from None
        if described.classes and described.classes.num_classes != described.num_classes:
            raise ValueError(f"{path} names another number of classes than it has outputs")
        return described


def _integers(values: Any, count: int) -> Any:
    if len(values) != count or any(type(v) is not int or not 0 < v < 2**31 for v in values):
        raise ValueError(f"{values!r:.60} should be {count} whole numbers above 0")
    return tuple(values)


def _numbers(values: Any) -> tuple[float, ...]:
    if len(values) != 3 or any(type(v) not in (int, float) or not abs(v) < 1e6 for v in values):
        raise ValueError(f"{values!r:.60} should be 3 numbers")
    return tuple(map(float, values))
