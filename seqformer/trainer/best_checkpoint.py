"""The best validation of a run so far, kept in best.json."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from seqformer.files import write_json
from seqformer.trainer.run_log import LOG_NAME, read_log

logger = logging.getLogger(__name__)

_NAME = "best.json"


@dataclass(frozen=True)
class BestCheckpoint:
    """Where the AP was highest.

    Attributes:
        step: optimiser steps then; its checkpoint is kept. None before the first validation.
        ap: 0..1, or -1 where nothing was there to be found.
    """

    step: int | None = None
    ap: float = -2.0

    @classmethod
    def read(cls, output: Path) -> BestCheckpoint:
        """What an earlier session of the run left; from its log where the file is damaged."""
        path = output / _NAME
        if not path.is_file():
            return cls()
        try:
            content = json.loads(path.read_bytes())
            step, ap = content["step"], content["ap"]
            if content.keys() == {"step", "ap"} and type(step) is int and type(ap) is float:
                return cls(step, ap)
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        logger.warning("%s is damaged; the best validation is taken from %s", path, LOG_NAME)
        best = cls()
        for record in read_log(output / LOG_NAME):
            scores = record.get("validation")
            ap = scores.get("AP") if isinstance(scores, dict) else None
            if isinstance(ap, float) and best.improves(ap):
                best = cls(record["step"], ap)
        return best

    def improves(self, ap: float) -> bool:
        """Whether `ap` is better."""
        return ap > self.ap

    def write(self, output: Path) -> None:
        """To best.json, atomically."""
        write_json(output / _NAME, asdict(self))
