"""results.json, in the layout of YouTube-VIS, and what is finished of it while a run goes on.

The file is written at once and renamed into place. Until then the finished videos are kept in
`<output>.partial.jsonl`, one line per video, so that no computed result is ever lost. Needs no
torch, so scoring and drawing existing results start quickly.
"""

from __future__ import annotations

import contextlib
import glob
import json
import logging
from pathlib import Path
from typing import Any

from seqformer.annotations.json_file import read_json_file
from seqformer.files import remove_leftovers, replacing, to_disk, write_json, writing_to

logger = logging.getLogger(__name__)


def load_results(path: Path) -> list[dict[str, Any]]:
    """Read a results file, or the `results.json` inside a zip as the benchmark server takes it.

    Raises: FileNotFoundError; ValueError when it is not a list of results.
    """
    content = read_json_file(path, "results file")
    if not isinstance(content, list):
        raise ValueError(f"{path} must hold a list of results, not {type(content).__name__}")
    return content


def write_results(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write results.json: at any time it holds the old results or all of the new.

    Raises: WriteError.
    """
    write_json(path, entries)


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
