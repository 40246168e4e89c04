"""Train SeqFormer: `train.py PRESET [--field value ...]`; `train.py --help` lists the presets."""

from __future__ import annotations

import sys

from seqformer.command import exit_with


def main() -> int:
    """Returns: the exit code."""
    from seqformer.cli.main import run_command

    return run_command("train", sys.argv[1:], "train.py")


if __name__ == "__main__":
    exit_with("train.py", main)
