"""The evaluation command: run weights on videos, score results, draw them.

Checks everything that can be checked before the model is loaded. Exit codes: 0 all done; 1 some
videos failed (the results of the others are written); 2 the command cannot be carried out. Scoring
existing results never imports torch.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seqformer.command import Command, sentence_of
from seqformer.config import BackboneName, EvalConfig
from seqformer.files import check_replaceable, locked, make_folder, write_json
from seqformer.inference.results import load_results, lock_path, stored_settings
from seqformer.inference.scoring import (
    check_report,
    has_ground_truth,
    refuse_without_ground_truth,
    score,
)
from seqformer.safe_files import check_regular

if TYPE_CHECKING:
    from seqformer.inference.results import PartialResults
    from seqformer.inference.runner import Failure
    from seqformer.inference.sources import VideoSource
    from seqformer.structures import ClassMap

logger = logging.getLogger(__name__)
Entries = list[dict[str, Any]]
_ONLY_WITH_WEIGHTS = (
    *("output", "backbone", "device", "fresh", "threads", "decode_workers", "encode_workers"),
    *("deterministic", "memory_mib", *(f.name for f in fields(EvalConfig))),
)


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Run a SeqFormer on videos (--weights), or score and draw existing results (--results).

    eval.py --weights r50.pth --backbone resnet50 --images valid/JPEGImages --annotations
    valid.json --output results.json writes the results file, and prints the AP if the annotation
    file has annotations. Without --annotations, --images may be a video file, a folder of images or
    a folder of such folders. eval.py --results results.json --annotations valid.json scores.
    """

    weights: Path | None = None
    """Checkpoint: a released file or one of ours."""
    backbone: BackboneName | None = None
    """Backbone of the weights; needed only where the file does not tell."""
    images: Path | None = None
    """Folder of the frames; without --annotations a folder of images or of folders, or a video."""
    annotations: Path | None = None
    """YouTube-VIS annotation file; may lack `annotations`, as that of the public validation set."""
    output: Path | None = None
    """Results file to write."""
    results: Path | None = None
    """Score or draw this results file (.json, or the .zip of a submission); runs no weights."""
    metrics: Path | None = None
    """Write the metrics here, as JSON."""
    report: Path | None = None
    """Folder for an HTML page with the AP, its failures and all videos; needs ground truth, and
    --images to show frames."""
    visualize: Path | None = None
    """Folder for videos with the results drawn on them."""
    visualize_format: Literal["mp4", "webm", "gif", "png"] = "mp4"
    """png writes a folder of pictures per video."""
    visualize_min_score: float = 0.3
    """Results below this score are not drawn."""
    visualize_truth: bool = False
    """Draw the ground truth of the annotation file beside the results, in the same colours."""
    visualize_fps: float | None = None
    """Frames per second of drawn videos; by default that of the video file, 6 for images."""
    upright: bool = False
    """Turn still frames as their EXIF orientation says; by default they are read as they are
    stored, as published, and the first with another orientation is named. Videos always are."""
    allow_broken: bool = False
    """Take video files that break off or have damaged frames as they are, with a warning, instead
    of counting them as failed."""
    allow_outside: bool = False
    """Let file names of the annotation file lead out of the folder --images."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one."""
    fresh: bool = False
    """Start over instead of continuing an interrupted run of the same command."""
    deterministic: bool = False
    """The same bits from the same command on the same machine; somewhat slower on a GPU."""
    verbose: bool = False
    """Show where an error of a video came from."""
    short_side: int | None = None
    """Shorter side of the frames in pixels; by default what the checkpoint was trained for, 360 for
    released files."""
    top_k: int | None = None
    """Largest (query, class) scores of a video that become results; by default 10."""
    min_score: float | None = None
    """Results below this score carry no masks; by default 0.001."""
    mode: Literal["whole", "clips"] | None = None
    """whole (default): the video is one clip, as published, at any length in bounded memory. clips:
    overlapping clips whose tracks are joined, for videos too long for one query per object."""
    clip_length: int | None = None
    """Frames of a clip in mode clips; by default 10."""
    clip_stride: int | None = None
    """Frames from the start of one clip to that of the next; by default 5."""
    match_threshold: float | None = None
    """Soft mask IoU on shared frames from which two clips' instances are one track; default 0.1."""
    chunk_frames: int | None = None
    """Frames that go through the network together; by default what the free memory allows. Chosen
    once per run, stored with it and used by every rank and every continuation."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Of the per-frame part; by default fp32. Positions and sums over time stay fp32."""
    threads: int | None = None
    """CPU threads per process on --device cpu; by default at most 4, and the same for any number of
    processes, because the last bits of results depend on it."""
    decode_workers: int | None = None
    """Processes per rank that decode frames ahead; by default 4 on a GPU, 0 on a CPU."""
    encode_workers: int | None = None
    """Processes per rank that compress masks; by default 2 on a GPU, 0 on a CPU."""
    memory_mib: int = 1024
    """Host memory for what drawing the masks of a video needs, about 0.12 MiB per 360p frame; the
    rest goes to a temporary file."""

    def config_changes(self) -> dict[str, Any]:
        """The fields of `EvalConfig` that were given."""
        given = {name: getattr(self, name) for name in (f.name for f in fields(EvalConfig))}
        return {name: value for name, value in given.items() if value is not None}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and turn every expected error into one sentence. Returns: the exit code."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    for name in ("PIL", "matplotlib"):
        logging.getLogger(name).setLevel(logging.INFO)
    hint = "" if options.weights is None else "the same command continues after the last video"
    return Command("eval.py", hint=hint).run(lambda: _act(options), _expected)


def _act(options: EvalOptions) -> int:
    try:
        check_options(options)
        return draw_and_score(options) if options.weights is None else run_weights(options)
    except (ValueError, OSError):
        logger.debug("where it happened:", exc_info=True)
        raise


def _expected() -> tuple[type[BaseException], ...]:
    """Errors whose message is written for the user, beside those of Python; torch stays unloaded
    where it is."""
    if "torch" not in sys.modules:
        return ()
    from seqformer.distributed import LostProcessError

    return (LostProcessError,)


def parse(arguments: Sequence[str]) -> EvalOptions:
    """The options of a command line; ends the program with a message on any mistake."""
    flags, values = arguments[::2], arguments[1::2]
    paths = {"--results": "results", "--annotations": "annotations", "--metrics": "metrics"}
    is_scoring = "--results" in flags and len(set(flags)) == len(flags) == len(values)
    if is_scoring and set(flags) <= set(paths) and not any(v.startswith("-") for v in values):
        # Scoring takes a second, and importing the parser would be a good part of it.
        return EvalOptions(
            **{paths[flag]: Path(value) for flag, value in zip(flags, values, strict=True)}
        )
    import tyro

    return tyro.cli(EvalOptions, args=arguments, prog="eval.py")


def check_options(options: EvalOptions) -> None:
    """Refuse combinations that make no sense, before any file is opened.

    Raises: ValueError saying what to change.
    """
    if (options.weights is None) == (options.results is None):
        raise ValueError("give either --weights, to run a model, or --results, to score a file")
    if options.weights is not None:
        for flag, value in (("--images", options.images), ("--output", options.output)):
            if value is None:
                raise ValueError(f"--weights also needs {flag}")
    else:
        for name in _ONLY_WITH_WEIGHTS:
            if getattr(options, name) != _default(name):
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} only works with --weights, not with --results")
        if options.visualize is options.report is None and options.images is not None:
            raise ValueError(
                "with --results, --images is only used together with --visualize or --report"
            )
        if options.visualize is not None and options.images is None:
            raise ValueError("--visualize needs --images, the frames to draw on")
        if options.visualize is None and options.annotations is None:
            raise ValueError("--results needs --annotations to score, or --visualize and --images")
    for flag, value in (("--metrics", options.metrics), ("--report", options.report)):
        if value is not None and options.annotations is None:
            raise ValueError(f"{flag} needs --annotations with ground truth")
    if options.visualize is None:
        for name in ("visualize_format", "visualize_min_score", "visualize_fps", "visualize_truth"):
            if getattr(options, name) != _default(name):
                raise ValueError(f"--{name.replace('_', '-')} needs --visualize")
    if options.visualize_truth and options.annotations is None:
        raise ValueError("--visualize-truth needs --annotations with ground truth")
    if options.visualize_fps is not None:
        from seqformer.inference.video_writer import check_fps  # loads codecs

        check_fps(options.visualize_fps, "--visualize-fps")
    for name in ("threads", "decode_workers", "encode_workers", "memory_mib"):
        value, least = getattr(options, name), int(name == "threads")
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    EvalConfig(**options.config_changes())  # refuses what makes no sense


def run_weights(options: EvalOptions) -> int:
    """`--weights`: results of every video, then the AP if there is ground truth."""
    weights, images, output = options.weights, options.images, options.output
    assert weights is not None and images is not None and output is not None
    _check_files(None if weights.is_dir() else weights, options.annotations)
    check_writable_outputs(options)
    sources, categories, is_scored = find_sources(options)

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Before torch is loaded: idle threads of one process must not spin on another's core.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from seqformer.determinism import deterministic_algorithms
    from seqformer.inference.predictor import Predictor
    from seqformer.inference.ranks import join_ranks
    from seqformer.inference.runner import Helpers, predict_shared, run_settings, settle_choices
    from seqformer.inference.stream import StreamLimits

    with (
        _own_output(output),
        deterministic_algorithms(options.deterministic),
        join_ranks(options.device) as ranks,
    ):
        if not ranks.is_main:
            logging.getLogger().setLevel(logging.WARNING)
        predictor = Predictor.from_checkpoint(weights, options.backbone, device=ranks.device)
        predictor.config = replace(predictor.config, **options.config_changes())
        predictor.limits = StreamLimits(memory_mib=options.memory_mib)
        stored = {} if options.fresh else stored_settings(output)
        settle_choices(predictor, ranks, stored, options.threads)
        helpers = Helpers.of(predictor.device, options.decode_workers, options.encode_workers)
        if ranks.is_main:
            warn_about_categories(categories, predictor.classes)
        settings = run_settings(weights, predictor.config, sources, predictor.device)
        logger.info("%d videos on %s, %s", len(sources), predictor.device, predictor.config)
        names = class_names(categories, predictor.classes)
        drawn = None if options.visualize is None else _drawer(options, names)
        partial, failures = predict_shared(
            predictor, sources, output, settings, options.fresh, ranks, helpers, drawn
        )
        if partial is not None:
            partial.close()
            check_all_there(sources, partial, failures)
            entries = [e for s in sources for e in partial.finished.get(s.video_id, [])]
            write_json(output, entries)
            if not failures:
                partial.remove()
        ranks.gather(None)  # nobody leaves, and is missed by torchrun, before the file is there
    if partial is None:
        return 0  # rank 0 reports
    logger.info("%d results of %d videos in %s", len(entries), len(partial.finished), output)
    if is_scored:
        if len(partial.finished) < len(sources):
            logger.warning("failed videos count as videos without results in these metrics")
        score(options, entries)
    if failures:
        sys.stderr.write(f"eval.py: {len(failures)} of {len(sources)} videos failed:\n")
        sys.stderr.writelines(f"  {failure}\n" for failure in failures)
        return 1
    return 0


def _own_output(output: Path) -> AbstractContextManager[None]:
    """Inside, no other evaluation writes this results file; the ranks share rank 0's lock.

    Raises: InUseError at once when another one does.
    """
    if os.environ.get("RANK", "0") != "0":
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


def draw_and_score(options: EvalOptions) -> int:
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
    for entry in entries:
        video_id = entry.get("video_id") if isinstance(entry, dict) else None
        if type(video_id) is not int or video_id not in by_video:
            raise ValueError(f"{options.results} has results of videos that are not there")
        by_video[video_id].append(entry)
    for source in sources:
        try:
            draw(source, by_video[source.video_id])
        except (ValueError, OSError, MemoryError) as error:
            failures.append(f"{source}: {sentence_of(error)}")
    if is_scored:
        score(options, entries)
    sys.stderr.writelines(f"eval.py: not drawn: {failure}\n" for failure in failures)
    return 1 if failures else 0


def find_sources(options: EvalOptions) -> tuple[list[VideoSource], dict[int, str], bool]:
    """The videos; category names by id ({} without annotation file); whether AP can be computed."""
    from seqformer.data.ytvis import load_annotation_file
    from seqformer.inference.sources import find_videos, listed_videos

    assert options.images is not None
    if not options.images.exists():
        raise FileNotFoundError(f"--images {options.images} does not exist; check the path")
    if options.annotations is None:
        changes = {"upright": options.upright, "allow_broken": options.allow_broken}
        return [replace(s, **changes) for s in find_videos(options.images)], {}, False
    if not options.images.is_dir():
        raise ValueError(f"--images {options.images} must be a folder when --annotations is given")
    is_scored = has_ground_truth(options.annotations)
    if not is_scored:
        refuse_without_ground_truth(
            options.annotations, {"--metrics": options.metrics, "--report": options.report}
        )
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
    for flag, file in (("--output", options.output), ("--metrics", options.metrics)):
        if file is not None and file.is_dir():
            raise ValueError(f"{flag} {file} is a folder; give the name of a file")
        if file is not None:
            check_replaceable(file)
        folders[flag] = None if file is None else file.parent
    for flag, folder in folders.items():
        if folder is None:
            continue
        make_folder(folder, flag)


def warn_about_categories(categories: Mapping[int, str], classes: ClassMap | None) -> None:
    """Say where the annotation file and the checkpoint mean different things by an id."""
    if not categories or classes is None:
        return
    known = class_names({}, classes)
    renamed = [
        f"{i} is {name!r} in the file, {known[i]!r} in the checkpoint"
        for i, name in sorted(categories.items())
        if i in known and known[i] != name
    ]
    absent = [f"{i} ({name})" for i, name in sorted(categories.items()) if i not in known]
    foreign = [f"{i} ({name})" for i, name in sorted(known.items()) if i not in categories]
    for problem, found in (
        ("mean something else", renamed),
        ("are not known to the checkpoint, which will never find them", absent),
        ("are found by the checkpoint but not listed in the file", foreign),
    ):
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            logger.warning(
                "the annotation file's categories differ from those of the checkpoint: %d %s: %s%s",
                len(found),
                problem,
                "; ".join(found[:5]),
                more,
            )


def class_names(categories: Mapping[int, str], classes: ClassMap | None) -> dict[int, str]:
    """Category id -> name; the checkpoint has the last word."""
    if classes is None:
        return dict(categories)
    named = zip(classes.ids, classes.names, strict=True)
    return {**categories, **{i: n for i, n in named if i >= 0 and n and n != f"unused_{i}"}}


def _drawer(options: EvalOptions, names: Mapping[int, str]) -> Callable[..., None]:
    from seqformer.inference.visualize import result_drawer

    assert options.visualize is not None
    return result_drawer(
        options.visualize,
        options.visualize_format,
        names,
        min_score=options.visualize_min_score,
        fps=options.visualize_fps,
        truth=options.annotations if options.visualize_truth else None,
    )


def _default(name: str) -> Any:
    return next(f for f in fields(EvalOptions) if f.name == name).default
