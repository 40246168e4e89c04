"""What `eval.py` does: weights on videos -> the results file, its score, pictures of it.

Scoring existing results never imports torch.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqformer.command import sentence_of
from seqformer.config import STILLS, EvalConfig, EvalOptions
from seqformer.distributed.environment import launch
from seqformer.files import locked, make_folder
from seqformer.inference.category_names import class_names, warn_about_categories
from seqformer.inference.results_file import load_results, lock_path, stored_settings, write_results
from seqformer.inference.scoring import (
    check_output_file,
    check_report,
    has_ground_truth,
    refuse_without_ground_truth,
    score,
)
from seqformer.safe_files import check_regular

if TYPE_CHECKING:
    from seqformer.data.video_sources import VideoSource
    from seqformer.inference.results_file import PartialResults
    from seqformer.inference.runner import Failure

logger = logging.getLogger(__name__)
Entries = list[dict[str, Any]]
LONGEST_WAIT_MINUTES = 7 * 24 * 60.0
"""A process may wait for the others for as long as their longest videos take."""


def run_weights(options: EvalOptions, program: str = "eval.py") -> int:
    """`--weights`: results of every video, then the AP if there is ground truth."""
    weights, images, output = options.weights, options.images, options.output
    assert weights is not None and images is not None and output is not None
    _check_files(None if weights.is_dir() else weights, options.annotations)
    check_writable_outputs(options)
    sources, categories, is_scored = find_sources(options)

    if launch().world_size > 1:
        # Before torch is loaded: idle threads of one process must not spin on another's core.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from seqformer.backend_choice import check_backend, chosen_backend
    from seqformer.determinism import deterministic_algorithms
    from seqformer.distributed.context import distributed_context
    from seqformer.export import is_exported
    from seqformer.inference.predictor import Predictor
    from seqformer.inference.run_settings import (
        own_threads,
        resolve_runtime,
        run_settings,
        settle_ranges,
    )
    from seqformer.inference.runner import Helpers, predict_shared
    from seqformer.inference.stream import StreamLimits

    with (
        _own_output(output),
        deterministic_algorithms(options.deterministic),
        chosen_backend(options.backend),
        own_threads(),
        distributed_context(
            options.device, timeout_minutes=LONGEST_WAIT_MINUTES, is_training=False
        ) as ranks,
    ):
        if not ranks.is_main:
            logging.getLogger("seqformer").setLevel(logging.WARNING)
        check_backend(ranks.device)
        if is_exported(weights):
            if options.compile:
                raise ValueError(f"--compile is for checkpoints; {weights} is a graph already")
            predictor = Predictor.from_exported(weights, device=ranks.device)
        else:
            predictor = Predictor.from_checkpoint(weights, options.backbone, device=ranks.device)
        if options.stills and predictor.config == EvalConfig():
            predictor.config = STILLS
        predictor.config = replace(predictor.config, **options.config_changes())
        predictor.is_compiled = options.compile
        predictor.limits = StreamLimits(memory_mib=options.memory_mib)
        stored = {} if options.fresh else stored_settings(output)
        resolve_runtime(predictor, ranks, stored, options.threads)
        helpers = Helpers.of(predictor.device, options.decode_workers, options.encode_workers)
        if ranks.is_main:
            warn_about_categories(categories, predictor.classes)
        settings = run_settings(weights, predictor.config, sources, predictor.device)
        if options.compile:
            settings["compile"] = True
        settle_ranges(predictor, sources, options.int8_ranges, stored, settings, ranks)
        kind = "pictures" if options.stills else "videos"
        logger.info("%d %s on %s, %s", len(sources), kind, predictor.device, predictor.config)
        names = class_names(categories, predictor.classes)
        drawn = None if options.visualize is None else _drawer(options, names)
        partial, failures = predict_shared(
            predictor, sources, output, settings, options.fresh, ranks, helpers, drawn
        )
        if partial is not None:
            partial.close()
            check_all_there(sources, partial, failures)
            entries = [e for s in sources for e in partial.finished.get(s.video_id, [])]
            write_results(output, entries)
            if not failures:
                partial.remove()
        ranks.gather(None)  # nobody leaves, and is missed by torchrun, before the file is there
    if partial is None:
        return 0  # rank 0 reports
    logger.info("%d results of %d %s in %s", len(entries), len(partial.finished), kind, output)
    if is_scored:
        if len(partial.finished) < len(sources):
            logger.warning("failed %s count as %s without results in these metrics", kind, kind)
        score(options, entries)
    if failures:
        sys.stderr.write(f"{program}: {len(failures)} of {len(sources)} {kind} failed:\n")
        sys.stderr.writelines(f"  {failure}\n" for failure in failures)
        return 1
    return 0


def _own_output(output: Path) -> AbstractContextManager[None]:
    """Inside, no other evaluation writes this results file; the ranks share rank 0's lock.

    Raises: InUseError at once when another one does.
    """
    if launch().rank != 0:
        return nullcontext()
    return locked(lock_path(output), f"{output}")


def check_all_there(
    sources: Sequence[VideoSource], partial: PartialResults, failures: Sequence[Failure]
) -> None:
    """Every video is finished or has failed, before anything is called done.

    Raises: OSError when that is not so.
    """
    failed = {failure.video_id for failure in failures}
    lost = [s for s in sources if s.video_id not in partial.finished and s.video_id not in failed]
    if lost:
        raise OSError(
            f"{len(lost)} of {len(sources)} videos are neither finished nor failed ({lost[0]}, "
            f"...): {partial.path} was changed or removed by something else; run the same command "
            "again"
        )


def draw_and_score(options: EvalOptions, program: str = "eval.py") -> int:
    """`--results`: no model, and for scoring alone no torch."""
    assert options.results is not None
    _check_files(options.results, options.annotations)
    check_report(options)
    check_writable_outputs(options)
    if options.visualize is None:  # as officially, every number is -1 without ground truth
        score(options, options.results)
        return 0
    entries = load_results(options.results)
    is_scored = False
    if options.annotations is not None:
        is_scored = has_ground_truth(options.annotations)
    failures = []
    sources, categories, _ = find_sources(options)
    draw = _drawer(options, class_names(categories, None))
    by_video: dict[Any, Entries] = {source.video_id: [] for source in sources}
    key, kind = ("image_id", "pictures") if options.stills else ("video_id", "videos")
    for entry in entries:
        video_id = entry.get(key) if isinstance(entry, dict) else None
        if type(video_id) is not int or video_id not in by_video:
            raise ValueError(f"{options.results} has results of {kind} that are not there")
        by_video[video_id].append(entry)
    for source in sources:
        try:
            draw(source, by_video[source.video_id])
        except (ValueError, OSError, MemoryError) as error:
            failures.append(f"{source}: {sentence_of(error)}")
    if is_scored:
        score(options, entries)
    sys.stderr.writelines(f"{program}: not drawn: {failure}\n" for failure in failures)
    return 1 if failures else 0


def find_sources(options: EvalOptions) -> tuple[list[VideoSource], dict[int, str], bool]:
    """The videos or pictures; category names by id ({} without annotation file); whether AP can be
    computed."""
    from seqformer.annotations.ytvis import load_annotation_file
    from seqformer.data.stills import find_stills, listed_stills
    from seqformer.data.video_sources import find_videos, listed_videos

    assert options.images is not None
    if not options.images.exists():
        raise FileNotFoundError(f"--images {options.images} does not exist; check the path")
    if options.annotations is None:
        changes: dict[str, Any] = {"upright": options.upright, "allow_broken": options.allow_broken}
        find = find_stills if options.stills else find_videos
        return [replace(s, **changes) for s in find(options.images)], {}, False
    if not options.images.is_dir():
        raise ValueError(f"--images {options.images} must be a folder when --annotations is given")
    is_scored = has_ground_truth(options.annotations)
    if not is_scored:
        refuse_without_ground_truth(
            options.annotations, {"--metrics": options.metrics, "--report": options.report}
        )
    if options.stills:
        stills = listed_stills(options.annotations, options.images, options.allow_outside)
        pictures = [replace(s, upright=options.upright) for s in stills.sources]
        return pictures, stills.names, is_scored
    listed = load_annotation_file(options.annotations, require_annotations=False)
    if not listed.videos:
        raise ValueError(f"{options.annotations} lists no videos; there is nothing to do")
    categories = {int(c["id"]): str(c["name"]) for c in listed.categories}
    sources = listed_videos(listed, options.images, options.allow_outside)
    return [replace(s, upright=options.upright) for s in sources], categories, is_scored


def _check_files(*paths: Path | None) -> None:
    for path in paths:
        if path is not None:
            check_regular(path)


def check_writable_outputs(options: EvalOptions) -> None:
    """Make the output folders and try to write there.

    Raises: ValueError or WriteError naming the folder.
    """
    folders = {"--visualize": options.visualize, "--report": options.report}
    outputs = ("--output", options.output), ("--metrics", options.metrics)
    for flag, file in (*outputs, ("--int8-ranges", options.int8_ranges)):
        if file is not None:
            check_output_file(file, flag)
        folders[flag] = None if file is None else file.parent
    for flag, folder in folders.items():
        if folder is None:
            continue
        make_folder(folder, flag)


def _drawer(options: EvalOptions, names: Mapping[int, str]) -> Callable[..., None]:
    from seqformer.visualization.result_videos import result_drawer

    assert options.visualize is not None
    return result_drawer(
        options.visualize,
        options.visualize_format,
        names,
        min_score=options.visualize_min_score,
        fps=options.visualize_fps,
        truth=options.annotations if options.visualize_truth else None,
    )
