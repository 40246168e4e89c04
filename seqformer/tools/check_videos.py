"""Categories and videos of an annotation file against what they should be and the files on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqformer.annotations.masks import Size, is_size
from seqformer.annotations.rules import get_file_names, get_name, is_id
from seqformer.data.frames import decode_picture
from seqformer.data.pictures import open_picture, orientation, stored_size
from seqformer.safe_files import inside
from seqformer.tools.findings import Findings
from seqformer.tools.references import Ids


@dataclass(frozen=True, slots=True)
class CheckedVideo:
    """A video that stays, perhaps with fewer frames or another size."""

    entry: dict[str, Any]
    """As it will be written."""
    size: Size
    """(height, width) as it will be written."""
    num_listed: int
    """Frames before mending: the length of the lists in its annotations."""
    kept: list[int]
    """Which of these frames stay."""
    listed_size: Size | None
    """(height, width) as the file has it; None where that is no size."""


def objects(content: dict[str, Any], key: str, findings: Findings) -> list[tuple[str, dict]]:
    """The entries of a list that are objects, with what to call them."""
    with_places = []
    for i, entry in enumerate(content[key]):
        where = f"{key}[{i}]"
        if isinstance(entry, dict):
            number = entry.get("id")
            with_places.append((where if number is None else f"{where} (id {number})", entry))
        else:
            findings.add("not-an-object", where, f"is {entry!r:.40}", "removed")
    return with_places


def check_categories(content: dict[str, Any], findings: Findings) -> tuple[list[dict], Ids]:
    """The categories that stay, each with an id of its own, and how to refer to them."""
    kept: dict[int, dict[str, Any]] = {}
    names: Counter[str] = Counter()
    entries = objects(content, "categories", findings)
    ids = Ids(entry.get("id") for _, entry in entries)
    if not content["categories"]:
        findings.add("nothing-listed", "categories", "has no entry", "")
    for where, entry in entries:
        checked = _with_sound_id(where, entry, ids, findings)
        if checked is None:
            continue
        entry, number = checked, checked["id"]
        if number in kept:
            findings.add("duplicate-id", where, "has the id of an earlier category", "removed")
            continue
        name = get_name(entry, number)
        if entry.get("name") != name:
            findings.add("no-name", where, f"has name {entry.get('name')!r:.40}", f'named "{name}"')
            entry = {**entry, "name": name}
        names[name] += 1
        if names[name] > 1:
            findings.add("duplicate-name", where, f"is called {name!r} like an earlier one", "")
        kept[number] = entry
    return list(kept.values()), ids


def _with_sound_id(
    where: str, entry: dict[str, Any], ids: Ids, findings: Findings
) -> dict[str, Any] | None:
    """The entry, with a new id where its own is none; None if nothing can refer to it."""
    number = entry.get("id")
    if is_id(number):
        return entry
    new = ids.renumber(number)
    fix = "removed" if new is None else f"given the id {new}, and so are references to it"
    findings.add("bad-id", where, f"has id {number!r:.40}", fix)
    return None if new is None else {**entry, "id": new}


def check_videos(
    content: dict[str, Any],
    mask_sizes: dict[str, set[Size]],
    images: Path | None,
    decode: bool,
    findings: Findings,
    allow_outside: bool = False,
) -> tuple[dict[int, CheckedVideo], Ids]:
    """The videos that stay, by id, in the order of the file, and how to refer to them.

    Args:
        mask_sizes: by the text of a video id, (height, width) of its run-length masks.
        images: folder of the frames; without it files are not looked at.
        decode: read whole frames, not only their headers.
    """
    candidates: dict[int, tuple[str, dict[str, Any]]] = {}
    content_id: dict[int, Any] = {}
    entries = objects(content, "videos", findings)
    ids = Ids(entry.get("id") for _, entry in entries)
    if not content["videos"]:
        findings.add("nothing-listed", "videos", "has no entry", "")
    for where, entry in entries:
        checked_entry = _with_sound_id(where, entry, ids, findings)
        if checked_entry is None:
            continue
        value, entry, number = entry.get("id"), checked_entry, checked_entry["id"]
        if number in candidates:
            problem = "has the id of an earlier video, which its annotations are taken to be of"
            findings.add("duplicate-id", where, problem, "removed")
        elif not _has_names(entry):
            findings.add("no-frames", where, "has no list of file names", "removed")
        else:
            if not allow_outside:
                _check_names(where, entry, images, findings)
            candidates[number] = where, entry
            content_id[number] = value
    sizes_of: dict[int, Sequence[Size | str | None]] = {}
    if images is not None:
        paths = [[images / n for n in e["file_names"]] for _, e in candidates.values()]
        sizes_of = dict(zip(candidates, _read_sizes(paths, decode, findings), strict=True))
    checked = {}
    for number, (where, entry) in candidates.items():
        names = entry["file_names"]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            findings.add("repeated-frame", where, f"lists {repeated[0]} more than once", "")
        listed: tuple[Any, Any] = entry.get("height"), entry.get("width")
        size: Size | None = listed if is_size(*listed) else None
        frame_sizes = sizes_of.get(number, [size] * len(names))
        kept = []
        for t, result in enumerate(frame_sizes):
            if isinstance(result, tuple) or images is None:
                kept.append(t)
                continue
            kind = "missing-frame" if result == "" else "unreadable-frame"
            problem = f"{names[t]} does not exist" if result == "" else f"{names[t]}: {result}"
            findings.add(kind, f"{where}, frame {t}", problem, "frame removed from the video")
        seen = {t: own for t in kept if isinstance(own := frame_sizes[t], tuple)}
        on_disk = set(seen.values()) if images is not None else set()
        masks = mask_sizes.get(str(content_id[number]), set())
        size = _settle_size(where, listed, size, on_disk, masks, findings)
        if size is not None and images is not None:
            for t in [t for t in kept if seen[t] != size]:
                kept.remove(t)
                findings.add(
                    "frame-size",
                    f"{where}, frame {t}",
                    f"{names[t]} has {size_text(seen[t])} pixels, the video {size_text(size)}",
                    "frame removed from the video",
                )
        if size is None:
            continue
        if not kept:
            findings.add("no-frames", where, "has no frame that can be used", "video removed")
            continue
        changed: dict[str, Any] = {"height": size[0], "width": size[1]}
        if len(kept) < len(names):
            changed |= {"file_names": [names[t] for t in kept]}
        if "length" in entry:
            changed |= {"length": len(kept)}
        checked[number] = CheckedVideo(
            {**entry, **changed}, size, len(names), kept, listed if is_size(*listed) else None
        )
    return checked, ids


def _has_names(entry: dict[str, Any]) -> bool:
    try:
        return get_file_names(entry, "") is not None
    except ValueError:
        return False


def _check_names(
    where: str, entry: dict[str, Any], images: Path | None, findings: Findings
) -> None:
    for name in entry["file_names"]:
        try:
            inside(images or Path("."), name)
        except ValueError as error:
            findings.add("leaves-folder", where, str(error), "")
            return


def _settle_size(
    where: str,
    listed: tuple[Any, Any],
    size: Size | None,
    on_disk: set[Size],
    masks: set[Size],
    findings: Findings,
) -> Size | None:
    """(height, width) that the video is to have; None if it has to go."""
    only = next(iter(on_disk)) if len(on_disk) == 1 else None
    if only is None and masks and not on_disk:
        only = max(masks, key=lambda one: one[0] * one[1])
    shapes = masks | ({size} if size else set())
    if size is None:
        if only is None:
            fix = "video removed: its frames and masks do not tell its size"
        else:
            fix = f"set to {size_text(only)}, the size of its {'frames' if on_disk else 'masks'}"
        findings.add("bad-size", where, f"has height and width {listed!r:.60}", fix)
        return only
    if not on_disk or size in on_disk:
        return size
    if only is not None and (only in masks or all(_same_shape(only, one) for one in shapes)):
        fix = f"set to {size_text(only)}, the size of its frames; its masks are scaled"
        findings.add("frame-size", where, f"is listed with {size_text(size)} pixels", fix)
        return only
    problem = (
        f"has no frame of the listed {size_text(size)} pixels (e.g. {size_text(min(on_disk))})"
    )
    findings.add("frame-size", where, problem, "video removed: its masks do not fit its frames")
    return None


def _same_shape(one: Size, other: Size) -> bool:
    """Whether one is the other at another scale, but for rounding to whole pixels."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def _read_sizes(
    videos: Sequence[Sequence[Path]], decode: bool, findings: Findings
) -> list[list[Size | str]]:
    """(height, width) of every frame, "" where there is no file, else what is wrong with it.

    A frame with an EXIF orientation becomes a finding, once per video.
    """
    turned: dict[Path, int] = {}

    def read(path: Path) -> Size | str:
        try:
            with open_picture(path) as (image, data):
                if (number := orientation(image)) != 1:
                    turned[path] = number
                if decode:
                    return decode_picture(image, data).shape[:2]
                return stored_size(image)
        except FileNotFoundError:
            return ""
        except (ValueError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        results = pool.map(read, [path for paths in videos for path in paths], chunksize=64)
        sizes = [[next(results) for _ in paths] for paths in videos]
    for paths in videos:
        first = next((path for path in paths if path in turned), None)
        if first is not None:
            problem = f"has the EXIF orientation {turned[first]}"
            findings.add("turned-frame", str(first), problem, "")
    return sizes


def size_text(size: Size) -> str:
    """Height x width, for messages."""
    return f"{size[0]} x {size[1]}"
