"""From results, annotations and an image folder to `index.html` and `analysis.json`.

The page opens from the file system in any current browser and asks nothing of any network: script,
style, frames and masks are inside. Frames take what the masks leave of a budget of bytes.
"""

from __future__ import annotations

import importlib.resources
import json
import logging
import math
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from seqformer.config import ReportOptions
from seqformer.evaluation.analysis import Analysis, VideoSummary, analyse
from seqformer.evaluation.records import load_json
from seqformer.evaluation.ytvis_metric import evaluate
from seqformer.files import write_text, writing_to
from seqformer.report.content import mean_curves, overview, video_name, video_row, video_tracks
from seqformer.report.pictures import encode_frames
from seqformer.safe_files import inside

logger = logging.getLogger(__name__)

WORST_SHARE = 0.75
"""Of the videos that are shown when not all are: the worst ones; the rest is spread evenly."""
SCRIPTS = ("data.js", "charts.js", "tables.js", "player.js", "main.js")


def write_report(
    annotations: str | Path | dict[str, Any],
    results: str | Path | list[Any],
    folder: str | Path,
    images: str | Path | None = None,
    options: ReportOptions | None = None,
) -> Path:
    """Write the report of a results file.

    Args:
        annotations: with ground truth; a path or the parsed JSON.
        results: likewise.
        folder: made if it is not there.
        images: folder that the annotated file names start from; without it the page shows masks
            on an empty ground.

    Returns: the page.
    Raises: FileNotFoundError or ValueError naming the file and what is wrong with it; WriteError
        when the page cannot be written. A frame that cannot be read is only warned about.
    """
    options = options or ReportOptions()
    images = None if images is None else Path(images)
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"image folder {images} does not exist; check the path")
    truth, made = load_json(annotations, "annotations"), load_json(results, "results")
    names = {"annotations": Path(truth.name).name, "results": Path(made.name).name}
    analysis = analyse(
        truth,
        made,
        iou_threshold=options.iou_threshold,
        resamples=options.resamples,
        seed=options.seed,
        keep_masks=True,
        warns=False,  # `evaluate` does
    )
    if not analysis.truth.instances:
        raise ValueError(
            "a report needs ground truth, but the annotation file has no annotations (the public "
            "validation files have none)"
        )
    content = overview(analysis, evaluate(truth, made))
    file_names = _file_names(truth.content)
    if images is not None:
        _check_images(file_names, images, options.allow_outside)
    shown = _choose(analysis.videos, options.max_videos)
    videos, rows = _videos(analysis, shown, file_names, options)
    content |= {
        "title": options.title,
        "names": names,
        "minScore": options.min_score,
        "meanCurves": mean_curves(content["classes"]),
        "videos": rows,
        "counts": {
            "videos": len(analysis.truth.videos),
            "instances": sum(not i.is_crowd for i in analysis.truth.instances),
            "results": len(made.content),
            "resamples": options.resamples,
        },
    }
    if images is not None:
        _add_frames(videos, file_names, images, content, options)
    folder = Path(folder)
    page = folder / "index.html"
    with writing_to(page):
        folder.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(analysis.to_dict(), indent=1)
    write_text(folder / "analysis.json", numbers + "\n")
    write_text(page, render(content, videos))
    size = page.stat().st_size
    logger.info("report of %d videos, %.1f MB: %s", len(videos), size / 1e6, page)
    return page


def _file_names(content: dict[str, Any]) -> dict[int, list[str]]:
    """Frames by video id; none where the file does not list them properly."""
    lists = {video["id"]: video.get("file_names") for video in content["videos"]}
    return {
        video_id: names
        if isinstance(names, list) and all(isinstance(name, str) for name in names)
        else []
        for video_id, names in lists.items()
    }


def _check_images(file_names: dict[int, list[str]], images: Path, allow_outside: bool) -> None:
    """Refuse a folder that holds the first frame of no video, and names that lead out of it."""
    first = []
    for names in file_names.values():
        paths = [inside(images, name, allow_outside=allow_outside) for name in names]
        first += paths[:1]
    if first and not any(path.is_file() for path in first):
        raise FileNotFoundError(
            f"frame {first[0]} does not exist, nor does that of any other video; the image folder "
            "must be the one that the file names of the annotation file start from"
        )


def render(content: dict[str, Any], videos: dict[int, dict[str, Any]]) -> str:
    """The page as text.

    Args:
        content: see `content.overview`, with title, names, counts and rows of videos.
        videos: by position in the list of videos: tracks and frames.
    """
    files = importlib.resources.files("seqformer.report") / "page"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (files / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda value: "–" if value < 0 else f"{100 * value:.1f}"
    environment.filters["embedded"] = _embedded
    return environment.get_template("report.html.j2").render(
        **content,
        style=Markup((files / "report.css").read_text(encoding="utf-8")),
        script=Markup("\n".join((files / name).read_text(encoding="utf-8") for name in SCRIPTS)),
        data=content,
        video_data=videos,
    )


def _embedded(value: Any) -> Markup:
    """JSON that may stand inside a script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("</", "<\\/").replace("<!--", "\\u003c!--"))


def _choose(videos: list[VideoSummary], limit: int) -> set[int]:
    """Ids of the videos to show: all, or mostly the worst."""
    if len(videos) <= limit:
        return {video.video_id for video in videos}
    measured = [video for video in videos if video.stats["AP"] >= 0]
    ranked = [v.video_id for v in sorted(measured, key=lambda video: video.stats["AP"])]
    ranked += [video.video_id for video in videos if video.stats["AP"] < 0]
    num_worst = math.ceil(WORST_SHARE * limit)
    rest = ranked[num_worst:]
    num_others = limit - num_worst
    others = [rest[(2 * i + 1) * len(rest) // (2 * num_others)] for i in range(num_others)]
    return {*ranked[:num_worst], *others}


def _videos(
    analysis: Analysis,
    shown: set[int],
    file_names: dict[int, list[str]],
    options: ReportOptions,
) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """Tracks of the shown videos by position in the list, and the rows of the list."""
    videos, rows = {}, []
    for position, summary in enumerate(analysis.videos):
        video_id = summary.video_id
        row = video_row(summary, video_name(file_names[video_id], video_id))
        if video_id in shown:
            num_frames = summary.errors.pairwise.num_frames
            step = math.ceil(num_frames / options.max_frames)
            tracks = video_tracks(summary.errors, range(0, num_frames, step))
            if tracks is not None:
                videos[position] = tracks
        rows.append({**row, "shown": position in videos})
    return videos, rows


def _add_frames(
    videos: dict[int, dict[str, Any]],
    file_names: dict[int, list[str]],
    images: Path,
    content: dict[str, Any],
    options: ReportOptions,
) -> None:
    """Put the frames into `videos`, in what is left of the budget."""
    paths = []
    for position, video in videos.items():
        names = file_names[content["videos"][position]["id"]]
        paths.append([images / names[t] for t in video["shown"] if t < len(names)])
    rest = options.max_bytes - len(render(content, videos).encode("utf-8"))
    per_frame = len(',""')
    budget = rest - per_frame * sum(map(len, paths)) - len(',"frames":[]') * len(videos)
    encoded = encode_frames(paths, max(0, budget), options.upright)
    for video, frames in zip(videos.values(), encoded, strict=True):
        video["frames"] = frames
