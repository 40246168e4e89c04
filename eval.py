"""Run SeqFormer weights on videos, score results files, draw results: `eval.py --help`."""

from __future__ import annotations

import sys

from seqformer.command import exit_with


def main() -> int:
    """Returns: the exit code."""
    from seqformer.cli.main import run_command

    return run_command("eval", sys.argv[1:], "eval.py")


if __name__ == "__main__":
    exit_with("eval.py", main)
