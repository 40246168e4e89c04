"""The one command that counts.

    python -m bench.counts                  # ours: attention, masks, memory; then the tables
    python -m bench.counts --changed        # of these, what the records do not have yet
    python -m bench.counts attention --only 'encoder 360' --capability 80 --dtype float32
    python -m bench.counts masks --capability 80
    python -m bench.counts memory           # predictions for `bench.gpu --part first`; a minute
    python -m bench.counts least            # what any deformable attention has to move
    python -m bench.counts peers --sources DeformableDETR DCNv4 deformops-wheel
    python -m bench.counts tables           # of docs/kernels.md, from the records

All that is ours takes a quarter of an hour of CPU time. Records lie under bench/results/emulated/,
one file for each, and are added to.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

OURS = ("attention", "masks", "memory", "least")
KINDS = (*OURS, "peers", "tables")


def main(arguments: Sequence[str] | None = None) -> int:
    from importlib import import_module

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in KINDS:
        return import_module(f"bench.offline.counts.{given[0]}").main(given[1:])
    if set(given) - {"--changed"}:
        print(f"{__doc__}\n{given[0]!r} is none of {', '.join(KINDS)}", file=sys.stderr)
        return 2
    codes = [import_module(f"bench.offline.counts.{kind}").main(given) for kind in OURS]
    return max(*codes, import_module("bench.offline.counts.tables").main([]))


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.counts", main)
