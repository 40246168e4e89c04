"""What is in an annotation file: numbers, a table of the classes, and a plot.

seqformer data stats --annotations train.json --plot stats.png
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Count videos, frames, instances, lengths and sizes of an annotation file."""

    annotations: Path
    """Annotation file."""
    plot: Path | None = None
    """Write a figure here (.png, .pdf or .svg)."""
    output: Path | None = None
    """Write the numbers here, as JSON."""


def act(options: Options) -> None:
    """The command."""
    from seqformer.tools.annotation_json import write_content
    from seqformer.tools.stats import format_summary, measure, summarise

    measures = measure(options.annotations)
    numbers = summarise(measures)
    sys.stdout.write(format_summary(numbers) + "\n")
    if options.output is not None:
        write_content(options.output, numbers)
    if options.plot is not None:
        from seqformer.tools.stats_plot import plot

        plot(measures, numbers, options.plot)
        logger.info("plot in %s", options.plot)
