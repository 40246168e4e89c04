"""Train SeqFormer: `train.py PRESET [--field value ...]`; `train.py --help` lists the presets."""

from __future__ import annotations

import sys

from seqformer.trainer.cli import run

if __name__ == "__main__":
    run(sys.argv[1:])
