"""What inference says about a video, and the results file in the layout of YouTube-VIS.

The file is written at once and renamed into place. Until then the finished videos are kept in
`<output>.partial.jsonl`, one line per video, so that no computed result is ever lost. Needs no
torch, so scoring and drawing existing results start quickly.
"""

from __future__ import annotations

import contextlib
import glob
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqformer.annotations.json_file import read_json_file
from seqformer.annotations.run_lengths import RLE, decode_mask
from seqformer.files import remove_leftovers, replacing, to_disk, writing_to

if TYPE_CHECKING:
    from seqformer.inference.draw import Colours

logger = logging.getLogger(__name__)

VIDEO_NAME_LENGTH = 10


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One (query, class) pair of a video: a track with a label.

    Attributes:
        query: index of the instance query, or number of the track in mode clips; detections that
            share it share their masks.
        class_index: output of the classifier.
        category_id: the same as a category of the annotation file.
        score: in 0..1.
        segmentations: T entries; None in every frame where the score is below `min_score`, and in
            frames without the track in mode clips.
        boxes_xyxy: [T, 4] float32, pixels of the original frame, from the box head (not the masks).
    """

    query: int
    class_index: int
    category_id: int
    score: float
    segmentations: tuple[RLE | None, ...]
    boxes_xyxy: np.ndarray

    def mask(self, frame: int) -> np.ndarray | None:
        """[h0, w0] bool of one frame, decoded now; None where there is no mask."""
        segmentation = self.segmentations[frame]
        return None if segmentation is None else decode_mask(segmentation)


@dataclass(frozen=True, kw_only=True)
class VideoPrediction:
    """All detections of a video, in the published order (grouped by query).

    Attributes:
        detections: at most `top_k`; not sorted by score across queries.
        num_frames: T.
        frame_size: (height, width) of the original frames.
        first_frame: number of the first of these frames in the video; above 0 only where a stream
            has forgotten what came before.
        names: category id -> name, as far as the checkpoint tells.
    """

    detections: tuple[Detection, ...]
    num_frames: int
    frame_size: tuple[int, int]
    first_frame: int = 0
    names: Mapping[int, str] = field(default_factory=dict)

    def draw(
        self,
        frames: Iterable[np.ndarray],
        min_score: float = 0.3,
        colours: Colours | None = None,
    ) -> list[np.ndarray]:
        """The frames that the prediction is about, with masks, boxes and labels on them.

        Args:
            frames: `num_frames` uint8 RGB [h0, w0, 3], from `first_frame` on.
            min_score: detections below it are left out.
            colours: keep one dict over the results of a stream for colours that stay.
        """
        from seqformer.inference.draw import draw_video

        return draw_video(frames, self.detections, self.names, min_score, colours)

    def to_supervision(self, frame: int, min_score: float = 0.0) -> Any:
        """One frame as `supervision.Detections`, for the tools of that package.

        Args:
            frame: 0 .. `num_frames` - 1.
            min_score: detections below it are left out, as are those without pixels in the frame.

        Returns: boxes around the masks, masks, class ids (categories), scores as confidence,
            queries as tracker ids, and names in `data["class_name"]`.
        Raises: ImportError when supervision is not installed; IndexError for another frame.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError("to_supervision needs the package: pip install supervision") from None
        if not 0 <= frame < self.num_frames:
            raise IndexError(f"frame {frame} is not in 0..{self.num_frames - 1}")
        drawn = [
            (detection, mask)
            for detection in self.detections
            if detection.score >= min_score
            and (mask := detection.mask(frame)) is not None
            and mask.any()
        ]
        if not drawn:
            return supervision.Detections.empty()
        masks = np.stack([mask for _, mask in drawn])
        detections = [detection for detection, _ in drawn]
        names = [self.names.get(d.category_id, f"class {d.category_id}") for d in detections]
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            confidence=np.array([d.score for d in detections], np.float32),
            class_id=np.array([d.category_id for d in detections]),
            tracker_id=np.array([d.query for d in detections]),
            data={"class_name": np.array(names)},
        )

    def entries(self, video_id: int, video_name: str) -> list[dict[str, Any]]:
        """The video's part of a results file.

        parity: `video_name` keeps the first ten characters of the first file name only
        (test_results.py::test_video_name_is_cut_to_ten_characters).
        """
        return [
            {
                "video_id": video_id,
                "video_name": video_name[:VIDEO_NAME_LENGTH],
                "score": detection.score,
                "category_id": detection.category_id,
                "segmentations": list(detection.segmentations),
            }
            for detection in self.detections
        ]


def load_results(path: Path) -> list[dict[str, Any]]:
    """Read a results file, or the `results.json` inside a zip as the benchmark server takes it.

    Raises: FileNotFoundError; ValueError when it is not a list of results.
    """
    content = read_json_file(path, "results file")
    if not isinstance(content, list):
        raise ValueError(f"{path} must hold a list of results, not {type(content).__name__}")
    return content


class PartialResults:
    """The finished videos of a run that goes on, on disk as soon as they are finished.

    A line with the settings comes first; a file of other settings is not continued.
    """

    def __init__(self, path: Path, settings: dict[str, Any], fresh: bool = False) -> None:
        """Continue `path` if it was written with the same `settings`; `fresh` starts over."""
        self.path = path
        self.finished: dict[int, list[dict[str, Any]]] = {}
        if path.exists() and not fresh:
            self.finished = read_partial(path, settings)
        self._start(settings)

    @classmethod
    def continue_all(
        cls, output: Path, settings: dict[str, Any], fresh: bool = False
    ) -> PartialResults:
        """Rank 0's file for the results of `output`, with all that any rank has finished before.

        The files of the other ranks are gone afterwards; nothing else may be writing them now.
        """
        for path in (output, *(paths := partial_paths(output))):
            remove_leftovers(path)
        partial = cls(partial_path(output), settings, fresh)
        for path in paths:
            if path != partial.path:
                others = {} if fresh else read_partial(path, settings)
                for video_id, entries in others.items():
                    if video_id not in partial.finished:
                        partial.add(video_id, entries)
                path.unlink()
        return partial

    def _start(self, settings: dict[str, Any]) -> None:
        with replacing(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps({"settings": settings}) + "\n")
            for video_id, entries in self.finished.items():
                file.write(_line(video_id, entries))
        with writing_to(self.path):
            self._file = self.path.open("a", encoding="utf-8")

    def add(self, video_id: int, entries: list[dict[str, Any]]) -> None:
        """Record a finished video; on return it is on disk.

        Raises: WriteError when it cannot be; the evaluation then has to end.
        """
        with writing_to(self.path):
            self._file.write(_line(video_id, entries))
            to_disk(self._file)
        self.finished[video_id] = entries

    def close(self) -> None:
        """Stop writing; the file stays."""
        with contextlib.suppress(OSError):  # what could not be written has been said
            self._file.close()

    def remove(self) -> None:
        """Delete the file: everything in it is in the results file now."""
        self.close()
        self.path.unlink(missing_ok=True)


def partial_path(output: Path, rank: int = 0) -> Path:
    """Where a rank keeps the finished videos of a run until `output` is written."""
    return output.with_name(f"{output.name}.partial{f'.{rank}' if rank else ''}.jsonl")


def lock_path(output: Path) -> Path:
    """The lock of whoever writes `output`."""
    return output.with_name(f".{output.name}.lock")


def partial_paths(output: Path) -> list[Path]:
    """Those files of all ranks that exist, rank 0 first."""
    own = partial_path(output)
    others = output.parent.glob(f"{glob.escape(output.name)}.partial.*.jsonl")
    return [path for path in (own, *sorted(others)) if path.is_file()]


def read_partial(path: Path, settings: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Finished videos in a file of a run with the same settings; else none, with a warning."""
    finished: dict[int, list[dict[str, Any]]] = {}
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
        written_with = json.loads(header)["settings"]
        changed = [k for k in settings | written_with if settings.get(k) != written_with.get(k)]
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("%s is damaged and is ignored; starting over", path)
        return finished
    if changed:
        logger.warning(
            "%s belongs to a run with other settings (%s) and is ignored; starting over",
            path,
            ", ".join(sorted(changed)),
        )
        return finished
    for line in lines:
        try:
            video = json.loads(line)
            finished[int(video["video_id"])] = list(video["entries"])
        except (ValueError, KeyError, TypeError):
            break  # the process died while it wrote this line
    logger.info("%s holds %d finished videos", path, len(finished))
    return finished


def stored_settings(output: Path) -> dict[str, Any]:
    """The settings of an interrupted run of `output`; {} where there is none."""
    for path in partial_paths(output):
        try:
            with path.open(encoding="utf-8") as file:
                settings = json.loads(file.readline())["settings"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(settings, dict):
            return settings
    return {}


def _line(video_id: int, entries: list[dict[str, Any]]) -> str:
    return json.dumps({"video_id": video_id, "entries": entries}) + "\n"
