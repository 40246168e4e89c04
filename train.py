"""Train SeqFormer: `train.py PRESET [--field value ...]`; `train.py --help` lists the presets."""

from __future__ import annotations

import sys

from seqformer.command import exit_with


def main() -> int:
    """Returns: the exit code."""
    from seqformer.cli.train import main as train

    return train(sys.argv[1:])


if __name__ == "__main__":
    exit_with("train.py", main)
