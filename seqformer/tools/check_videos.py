"""Categories and videos of an annotation file against what they should be and the files on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqformer.data.frames import read_frame
from seqformer.data.pictures import open_picture
from seqformer.evaluation.track_iou import Size, is_size
from seqformer.tools.findings import Findings


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


def objects(content: dict[str, Any], key: str, findings: Findings) -> list[tuple[str, dict]]:
    """The entries of a list that are objects, with what to call them."""
    found = []
    for i, entry in enumerate(content[key]):
        where = f"{key}[{i}]"
        if isinstance(entry, dict):
            number = entry.get("id")
            found.append((where if number is None else f"{where} (id {number})", entry))
        else:
            findings.add("not-an-object", where, f"is {entry!r:.40}", "removed")
    return found


def check_categories(content: dict[str, Any], findings: Findings) -> list[dict[str, Any]]:
    """The categories that stay: those with an id of their own."""
    kept: dict[int, dict[str, Any]] = {}
    names: Counter[str] = Counter()
    for where, entry in objects(content, "categories", findings):
        number = entry.get("id")
        if type(number) is not int:
            findings.add("bad-id", where, f"has id {number!r:.40}", "removed")
            continue
        if number in kept:
            findings.add("duplicate-id", where, "has the id of an earlier category", "removed")
            continue
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            findings.add("bad-id", where, "has no name", f'named "class {number}"')
            entry = {**entry, "name": f"class {number}"}
        names[entry["name"]] += 1
        if names[entry["name"]] > 1:
            findings.add("duplicate-name", where, f"is called {name!r} like an earlier one", "")
        kept[number] = entry
    return list(kept.values())


def check_videos(
    content: dict[str, Any],
    mask_sizes: dict[int, set[Size]],
    images: Path | None,
    decode: bool,
    findings: Findings,
) -> dict[int, CheckedVideo]:
    """The videos that stay, by id, in the order of the file.

    Args:
        mask_sizes: by video id, (height, width) of its run-length masks.
        images: folder of the frames; without it files are not looked at.
        decode: read whole frames, not only their headers.
    """
    candidates: dict[int, tuple[str, dict[str, Any]]] = {}
    for where, entry in objects(content, "videos", findings):
        number = entry.get("id")
        if type(number) is not int:
            findings.add("bad-id", where, f"has id {number!r:.40}", "removed")
        elif number in candidates:
            problem = "has the id of an earlier video, which its annotations are taken to be of"
            findings.add("duplicate-id", where, problem, "removed")
        elif not _has_names(entry):
            findings.add("no-frames", where, "has no list of file names", "removed")
        else:
            candidates[number] = where, entry
    sizes_of = {}
    if images is not None:
        paths = [[images / n for n in e["file_names"]] for _, e in candidates.values()]
        sizes_of = dict(zip(candidates, _read_sizes(paths, decode), strict=True))
    checked = {}
    for number, (where, entry) in candidates.items():
        names = entry["file_names"]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            findings.add("repeated-frame", where, f"lists {repeated[0]} more than once", "")
        listed = entry.get("height"), entry.get("width")
        size = listed if is_size(*listed) else None
        found = sizes_of.get(number, [size] * len(names))
        kept = []
        for t, result in enumerate(found):
            if isinstance(result, tuple) or images is None:
                kept.append(t)
                continue
            kind = "missing-frame" if result == "" else "unreadable-frame"
            problem = f"{names[t]} does not exist" if result == "" else f"{names[t]}: {result}"
            findings.add(kind, f"{where}, frame {t}", problem, "frame removed from the video")
        on_disk = {found[t] for t in kept} if images is not None else set()
        masks = mask_sizes.get(number, set())
        size = _settle_size(where, listed, size, on_disk, masks, findings)
        if size is not None and images is not None:
            for t in [t for t in kept if found[t] != size]:
                kept.remove(t)
                findings.add(
                    "frame-size",
                    f"{where}, frame {t}",
                    f"{names[t]} has {_text(found[t])} pixels, the video {_text(size)}",
                    "frame removed from the video",
                )
        if size is None:
            continue
        if not kept:
            findings.add("no-frames", where, "has no frame that can be used", "video removed")
            continue
        changed = {"height": size[0], "width": size[1]}
        if len(kept) < len(names):
            changed |= {"file_names": [names[t] for t in kept]}
        if "length" in entry:
            changed |= {"length": len(kept)}
        checked[number] = CheckedVideo({**entry, **changed}, size, len(names), kept)
    return checked


def _has_names(entry: dict[str, Any]) -> bool:
    names = entry.get("file_names")
    return isinstance(names, list) and bool(names) and all(isinstance(n, str) for n in names)


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
    if only is None and len(masks) == 1 and not on_disk:
        only = next(iter(masks))
    agrees_with_masks = only is not None and masks <= {only}
    if size is None:
        if agrees_with_masks:
            fix = f"set to {_text(only)}, the size of its frames and masks"
        else:
            fix = "video removed: its frames and masks do not tell one size"
        findings.add("bad-size", where, f"has height and width {listed!r:.60}", fix)
        return only if agrees_with_masks else None
    if not on_disk or size in on_disk:
        return size
    if agrees_with_masks and masks:
        fix = f"set to {_text(only)}, the size of its frames and masks"
        findings.add("frame-size", where, f"is listed with {_text(size)} pixels", fix)
        return only
    problem = f"has no frame of the listed {_text(size)} pixels (e.g. {_text(min(on_disk))})"
    findings.add("frame-size", where, problem, "video removed: its masks do not fit its frames")
    return None


def _read_sizes(videos: Sequence[Sequence[Path]], decode: bool) -> list[list[Size | str]]:
    """(height, width) of every frame, "" where there is no file, else what is wrong with it."""

    def read(path: Path) -> Size | str:
        try:
            if decode:
                return read_frame(path).shape[:2]
            with open_picture(path) as (image, _):
                return image.height, image.width
        except FileNotFoundError:
            return ""
        except (ValueError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        found = pool.map(read, [path for paths in videos for path in paths], chunksize=64)
        return [[next(found) for _ in paths] for paths in videos]


def _text(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
