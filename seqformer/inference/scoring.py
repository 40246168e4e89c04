"""What `eval.py` does with results where there is ground truth: the table, metrics, the report.

Needs no torch.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqformer.files import check_replaceable, make_folder, write_json
from seqformer.safe_files import check_regular, read_regular

if TYPE_CHECKING:
    from seqformer.config import EvalOptions
    from seqformer.evaluation import Scores
    from seqformer.evaluation.coco_metric import CocoMetrics

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


def score_files(
    annotations: Path, results: Path, metrics: Path | None, threads: int, ap_only: bool
) -> None:
    """The same where nothing else is asked for.

    Raises: as `evaluate`; WriteError, or ValueError naming a metrics file that cannot be written.
    """
    from seqformer.evaluation import score as score_file

    for file in (results, annotations):
        check_regular(file)
    if metrics is not None:
        check_output_file(metrics, "--metrics")
        make_folder(metrics.parent, "--metrics")
    _show(score_file(annotations, results, threads, ap_only=ap_only), metrics)


def check_output_file(file: Path, flag: str) -> None:
    """Raises: ValueError for a folder; WriteError for a pipe or device."""
    if file.is_dir():
        raise ValueError(f"{flag} {file} is a folder; give the name of a file")
    check_replaceable(file)


def _show(scores: Scores | CocoMetrics, file: Path | None) -> None:
    sys.stdout.write(scores.table() + "\n")
    if file is not None:
        write_json(file, scores.to_dict())
        logger.info("metrics in %s", file)


def score(options: EvalOptions, entries: list[dict[str, Any]] | Path) -> None:
    """Print the tables of metrics; write them, and the report, if asked to."""
    assert options.annotations is not None
    if options.stills:
        from seqformer.evaluation.coco_metric import evaluate_coco

        _show(evaluate_coco(options.annotations, entries), options.metrics)
    else:
        from seqformer.evaluation import score as score_file

        threads = options.threads or 1
        parts = options.long_videos, options.long_from
        scores = score_file(options.annotations, entries, threads, *parts, ap_only=options.ap_only)
        _show(scores, options.metrics)
    if options.report is not None:
        from seqformer.config import ReportOptions
        from seqformer.report import write_report

        results = options.results or options.output  # both hold these entries
        assert results is not None
        shown = ReportOptions(upright=options.upright, allow_outside=options.allow_outside)
        write_report(options.annotations, results, options.report, options.images, shown)
