"""The best validation of a run so far, kept in best.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from seqformer.inference.results import write_json

_NAME = "best.json"


@dataclass(frozen=True)
class BestScore:
    """Where the AP was highest.

    Attributes:
        step: optimiser steps then; its checkpoint is kept. None before the first validation.
        ap: 0..1, or -1 where nothing was there to be found.
    """

    step: int | None = None
    ap: float = -2.0

    @classmethod
    def read(cls, output: Path) -> BestScore:
        """What an earlier session of the run left."""
        path = output / _NAME
        return cls(**json.loads(path.read_text())) if path.is_file() else cls()

    def improves(self, ap: float) -> bool:
        """Whether `ap` is better."""
        return ap > self.ap

    def write(self, output: Path) -> None:
        """To best.json, atomically."""
        write_json(output / _NAME, asdict(self))
