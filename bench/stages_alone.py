"""The second stage of a chain without the first: its run, from random weights.

python -m bench.stages_alone CHAIN/2_videos/config.json OUTPUT      # by bench.stages
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from seqformer.config import TrainConfig, config_from_dict, override
from seqformer.trainer.terminal import setup_logging
from seqformer.trainer.trainer import train


def alone(config: TrainConfig, output: Path) -> TrainConfig:
    """The same run in a folder of its own, beginning with random weights."""
    return override(config, output=output, weights=None, auto_resume=True)


def main(config_file: str, output: str) -> int:
    """Train. Returns: the exit code."""
    setup_logging(is_main=True)
    saved = json.loads(Path(config_file).read_text(encoding="utf-8"))
    train(alone(config_from_dict(TrainConfig, saved), Path(output)))
    return 0


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.stages_alone", lambda: main(*sys.argv[1:3]))
