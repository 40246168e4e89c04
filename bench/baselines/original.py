"""The original code beside ours, where somebody has it: `SEQFORMER_PUBLIC=FOLDER pytest bench ...`.

`FOLDER/public.py` offers `build("r50", num_classes, num_frames)`, a module with the published state
dict; `train_step(model, clips, targets)` -> (losses, weighted total) with clips a list of
[T, 3, H, W] and masks and boxes of the targets flattened over instance and frame; and
`infer(model, frames, details=False)` -> a dict with `pred_logits`, `pred_boxes`, `pred_masks`.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from bench.suite.model_inputs import ModelSize, model_of, video
from seqformer.model import to_published
from seqformer.structures import ClipTargets

VARIABLE = "SEQFORMER_PUBLIC"


def is_available(device: torch.device) -> bool:
    """Whether the environment names the folder; the code is run on a CPU only."""
    return device.type == "cpu" and VARIABLE in os.environ


class PublicModel:
    """The original ResNet-50 model with our weights.

    Attributes:
        module: under the published names.
    """

    def __init__(self, size: ModelSize, device: torch.device) -> None:
        self._code = load(Path(os.environ[VARIABLE]))
        self.module: nn.Module = self._code.build("r50", size.config.num_classes, size.frames)
        self.module.load_state_dict(to_published(model_of(size, device)))
        self._size, self._clips = size, list(video(size, device))

    def loss(self, targets: list[ClipTargets]) -> Tensor:
        """The weighted sum of a training step."""
        flat = [
            {
                "labels": t["labels"],
                "boxes": t["boxes"].flatten(0, 1),
                "masks": t["masks"].flatten(0, 1),
                "size": torch.tensor(t["size"]),
            }
            for t in targets
        ]
        return self._code.train_step(self.module, self._clips, flat)[1]

    def infer(self) -> tuple[Tensor, Tensor, Tensor]:
        """class_logits [Q, K], boxes [T, Q, 4] and mask logits [Q, T, h4, w4] of the clip."""
        found: dict[str, Any] = self._code.infer(self.module, self._clips[0], details=False)
        Q, T = self._size.config.num_queries, self._size.frames
        masks = found["pred_masks"]
        return (
            found["pred_logits"].reshape(Q, -1),
            found["pred_boxes"].reshape(T, Q, 4),
            masks.reshape(Q, T, *masks.shape[-2:]),
        )


def load(folder: Path) -> ModuleType:
    """`public.py` of a folder. Raises: FileNotFoundError: it is not there."""
    path = folder / "public.py"
    spec = importlib.util.spec_from_file_location("_public_code", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; {VARIABLE} must name the folder of a public.py"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
