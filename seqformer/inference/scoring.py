"""What `eval.py` does with results where there is ground truth: the table, metrics, the report.

Needs no torch.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqformer.config import EvalOptions, ReportOptions
from seqformer.files import write_json
from seqformer.safe_files import read_regular

logger = logging.getLogger(__name__)

_ANNOTATIONS = re.compile(rb'"annotations"\s*+:\s*+(?!null|\[\s*\])')


def has_ground_truth(annotations: Path) -> bool:
    """Whether the file has annotations; public validation files have none, null or an empty list.

    Looks for the key without parsing the file, which scoring will do.
    Raises: FileNotFoundError.
    """
    return _ANNOTATIONS.search(read_regular(annotations, "annotation file")) is not None


def refuse_without_ground_truth(annotations: Path, options: Mapping[str, Path | None]) -> None:
    """Raises: ValueError if an option (flag -> its value) is given that needs ground truth."""
    for flag, value in options.items():
        if value is not None:
            raise ValueError(
                f"{flag} needs ground truth, but {annotations} has no annotations (the public "
                "validation files have none; their results are scored by the benchmark's server)"
            )


def check_report(options: EvalOptions) -> None:
    """Refuse a report that cannot be made, before anything is computed. Raises: ValueError."""
    if options.report is None or options.annotations is None:
        return
    if options.images is not None and not options.images.is_dir():
        raise ValueError(f"--images {options.images} must be a folder for --report")
    if not has_ground_truth(options.annotations):
        refuse_without_ground_truth(options.annotations, {"--report": options.report})


def score(options: EvalOptions, entries: list[dict[str, Any]] | Path) -> None:
    """Print the tables of metrics; write them, and the report, if asked to."""
    from seqformer.evaluation import score as score_file
    from seqformer.evaluation.coco_metric import evaluate_coco

    assert options.annotations is not None
    scores = (evaluate_coco if options.stills else score_file)(options.annotations, entries)
    sys.stdout.write(scores.table() + "\n")
    if options.metrics is not None:
        write_json(options.metrics, scores.to_dict())
        logger.info("metrics in %s", options.metrics)
    if options.report is not None:
        from seqformer.report import write_report

        results = options.results or options.output  # both hold these entries
        assert results is not None
        shown = ReportOptions(upright=options.upright, allow_outside=options.allow_outside)
        write_report(options.annotations, results, options.report, options.images, shown)
