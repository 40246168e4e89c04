"""Run SeqFormer weights on videos, score results files, draw results: `eval.py --help`."""

from __future__ import annotations

from seqformer.command import exit_with


def main() -> int:
    """Returns: the exit code."""
    from seqformer.inference.cli import main as evaluate

    return evaluate()


if __name__ == "__main__":
    exit_with("eval.py", main)
