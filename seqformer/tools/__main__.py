"""`python -m seqformer.tools`: what commands there are."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from seqformer.command import exit_with


def main() -> int:
    """Print every command with the first line of its module. Returns: the exit code."""
    lines = ["Commands, each with --help:", ""]
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\ndef main(" in text and path.stem != "__main__":
            purpose = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].replace("\n", " ")
            lines.append(f"  python -m seqformer.tools.{path.stem:9} {purpose}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    exit_with("tools", main)
