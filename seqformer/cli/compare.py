"""Is one results file better than another, or were the videos just kind to it?

    seqformer compare --first a.json --second b.json --annotations instances.json

Paired: both files are scored on the same resamples of the videos.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from seqformer.config import RESAMPLES


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare two results files on the same videos; differences are second minus first."""

    first: Path
    """Results file."""
    second: Path
    """The other one."""
    annotations: Path
    """Annotation file with ground truth."""
    resamples: int = RESAMPLES
    """Bootstrap resamples of the videos."""
    seed: int = 0
    """Seed of the bootstrap."""
    videos: int = 10
    """Lines for the videos that changed most, either way."""
    output: Path | None = None
    """Write the numbers here, as JSON."""


def act(options: Options) -> None:
    """The command."""
    from seqformer.evaluation import analyse, compare
    from seqformer.evaluation.analysis_table import format_comparison
    from seqformer.evaluation.records import load_json
    from seqformer.tools.annotation_json import write_content

    if options.videos < 0:
        raise ValueError(f"--videos must be 0 or more, got {options.videos}")
    annotations = load_json(options.annotations, "annotations")
    first, second = (
        analyse(annotations, results, resamples=1) for results in (options.first, options.second)
    )
    comparison = compare(first, second, resamples=options.resamples, seed=options.seed)
    sys.stdout.write(format_comparison(comparison, first.truth.categories, options.videos) + "\n")
    if options.output is not None:
        write_content(options.output, comparison.to_dict())
