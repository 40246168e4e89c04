"""Run SeqFormer weights on videos, score results files, draw results: `eval.py --help`."""

from __future__ import annotations

import sys

from seqformer.inference.cli import main

if __name__ == "__main__":
    sys.exit(main())
