"""Take the score of a results file apart: errors, lengths, sizes, classes, intervals.

seqformer analyse --results results.json --annotations instances.json
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from seqformer.config import RESAMPLES


@dataclass(frozen=True, kw_only=True)
class Options:
    """Kinds of error and what each costs, AP by video length and object size, intervals."""

    results: Path
    """Results file (.json, or the .zip of a submission)."""
    annotations: Path
    """Annotation file with ground truth."""
    iou_threshold: float = 0.5
    """From this IoU on a result is right, for the kinds of error: 0.50, 0.55, ... or 0.95."""
    length_edges: tuple[int, ...] = ()
    """Longest videos, in frames, of the groups by length but the last: --length-edges 16 32;
    by default three groups of as many videos."""
    resamples: int = RESAMPLES
    """Bootstrap resamples of the videos."""
    seed: int = 0
    """Seed of the bootstrap."""
    output: Path | None = None
    """Write the numbers here, as JSON."""


def act(options: Options) -> None:
    """The command."""
    from seqformer.evaluation import analyse
    from seqformer.evaluation.analysis_table import format_analysis
    from seqformer.tools.annotation_json import write_content

    analysis = analyse(
        options.annotations,
        options.results,
        iou_threshold=options.iou_threshold,
        length_edges=options.length_edges or None,
        resamples=options.resamples,
        seed=options.seed,
    )
    sys.stdout.write(format_analysis(analysis) + "\n")
    if options.output is not None:
        write_content(options.output, analysis.to_dict())
