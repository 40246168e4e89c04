"""CVAT's XML 1.1, of videos (tracks) and of images, as plain values.

The parser is expat with document types forbidden, so no entity is ever expanded. What is not a
shape with an area (points, polylines, cuboids, skeletons, tags) is counted and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

AREAS = ("mask", "polygon", "box", "ellipse")
WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton", "tag")
_TASKS = ("task", "job")
_MAX_DEPTH = 50


@dataclass(frozen=True)
class CvatShape:
    """One drawn shape in one frame."""

    kind: str
    """mask, polygon, box or ellipse."""
    frame: int
    """As CVAT numbers it: of the whole video, not of the task."""
    values: tuple[float, ...]
    """polygon: x0, y0, x1, y1, ...; box: left, top, right, bottom; ellipse: centre and radii."""
    label: str
    rotation: float = 0.0
    """Degrees, clockwise, of boxes and ellipses."""
    runs: tuple[int, ...] = ()
    """mask: run lengths along the rows, zeros first; `values` is left, top, width, height."""
    outside: bool = False
    """The object has left, from this frame on."""
    occluded: bool = False
    z_order: int = 0
    group: int = 0
    """0: none."""
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass
class CvatTrack:
    """The shapes of one object."""

    label: str
    group: int
    task: str
    shapes: list[CvatShape] = field(default_factory=list)


@dataclass
class CvatImage:
    """A frame of an export for images, with its shapes."""

    number: int
    name: str
    size: tuple[int, int]
    """(height, width)."""
    task: str
    shapes: list[CvatShape] = field(default_factory=list)


@dataclass
class CvatTask:
    """What the file says of a task; "" and None where it does not."""

    task_id: str = ""
    name: str = ""
    source: str = ""
    """Name of the video file."""
    size: tuple[int, int] | None = None
    """(height, width)."""
    start: int = 0
    stop: int | None = None
    """Last frame, included."""
    step: int = 1
    num_frames: int | None = None


@dataclass
class CvatFile:
    """A whole file."""

    labels: list[str] = field(default_factory=list)
    tasks: list[CvatTask] = field(default_factory=list)
    images: list[CvatImage] = field(default_factory=list)
    tracks: list[CvatTrack] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Kinds of shapes without an area -> how many."""


def read_cvat_xml(data: bytes, name: str) -> CvatFile:
    """Parse a file.

    Args:
        name: of the file, for messages.

    Raises: ValueError naming the file, the line and what is wrong there.
    """
    reader = _Reader(name)
    parser = reader.parser
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        if name in str(error):  # one of ours
            raise
        raise ValueError(f"{name} is no complete XML: {error}") from None
    if reader.root != "annotations":
        raise ValueError(
            f"{name} is not an export of CVAT: its first element is {reader.root!r:.40}, not "
            "'annotations'; export the task as CVAT for video 1.1 or CVAT for images 1.1"
        )
    return reader.file


class _Reader:
    """Collects the elements as they come."""

    def __init__(self, name: str) -> None:
        self.file = CvatFile()
        self.root = ""
        self._name = name
        self._path: list[str] = []
        self._text: list[str] = []
        self._task: CvatTask | None = None
        self._track: CvatTrack | None = None
        self._image: CvatImage | None = None
        self._shape: dict[str, Any] | None = None
        self._attribute = ""
        self._skipped = 0
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text.append

    def _refuse(self, *_: Any) -> None:
        raise ValueError(
            f"{self._name} declares a document type, which CVAT never writes; it is not read"
        )

    def _where(self) -> str:
        return f"{self._name}, line {self.parser.CurrentLineNumber}"

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self.root = self.root or tag
        self._path.append(tag)
        if len(self._path) > _MAX_DEPTH:
            raise ValueError(f"{self._where()}: elements are nested deeper than CVAT does")
        self._text.clear()
        if self._skipped:  # the parts of a skeleton
            self._skipped += 1
        elif tag in _TASKS and "meta" in self._path:
            self._task = CvatTask()
            self.file.tasks.append(self._task)
        elif tag == "track":
            group = self._whole(attributes, "group_id", 0)
            self._track = CvatTrack(
                self._get(attributes, "label"), group, attributes.get("task_id", "")
            )
        elif tag == "image" and "meta" not in self._path:
            size = self._whole(attributes, "height"), self._whole(attributes, "width")
            if min(size) < 1:
                raise ValueError(f"{self._where()}: an image of {size[0]} x {size[1]} pixels")
            self._image = CvatImage(
                self._whole(attributes, "id", len(self.file.images)),
                self._get(attributes, "name"),
                size,
                attributes.get("task_id", ""),
            )
        elif tag in WITHOUT_AREA and (self._track or self._image):
            self.file.left_out[tag] += 1
            self._skipped = 1
        elif tag in AREAS and (self._track or self._image):
            self._shape = self._open_shape(tag, attributes)
        elif tag == "attribute" and self._shape is not None:
            self._attribute = attributes.get("name", "")

    def _end(self, tag: str) -> None:
        self._path.pop()
        text = "".join(self._text).strip()
        self._text.clear()
        if self._skipped:
            self._skipped -= 1
        elif tag == "track" and self._track is not None:
            self.file.tracks.append(self._track)
            self._track = None
        elif tag == "image" and self._image is not None:
            self.file.images.append(self._image)
            self._image = None
        elif self._shape is not None:
            if tag == "attribute":
                self._shape["attributes"][self._attribute] = text
            elif tag in AREAS:
                shape = CvatShape(**self._shape)
                (self._track or self._image).shapes.append(shape)  # type: ignore[union-attr]
                self._shape = None
        elif "meta" in self._path:
            self._meta(tag, text)

    def _meta(self, tag: str, text: str) -> None:
        parent = self._path[-1]
        if parent == "label" and tag == "name" and text not in self.file.labels:
            self.file.labels.append(text)
        task = self._task
        if task is None:
            return
        if parent in _TASKS:
            if tag in ("id", "name", "source"):
                setattr(task, "task_id" if tag == "id" else tag, text)
            elif tag in ("start_frame", "stop_frame", "size") and text:
                key = {"start_frame": "start", "stop_frame": "stop", "size": "num_frames"}[tag]
                setattr(task, key, self._to_int(text, tag))
            elif tag == "frame_filter" and text:
                step = text.replace(" ", "").partition("step=")[2]
                task.step = self._to_int(step, tag) if step else 1
                if task.step < 1:
                    raise ValueError(f"{self._where()}: frame_filter is {text!r}")
        elif parent == "original_size" and tag in ("height", "width"):
            height, width = task.size or (0, 0)
            value = self._to_int(text, tag)
            task.size = (value, width) if tag == "height" else (height, value)

    def _open_shape(self, tag: str, attributes: Mapping[str, str]) -> dict[str, Any]:
        runs: tuple[int, ...] = ()
        if tag == "polygon":
            values = self._points(self._get(attributes, "points"))
        elif tag == "mask":
            keys = ("left", "top", "width", "height")
            values = tuple(float(self._whole(attributes, key)) for key in keys)
            try:
                runs = tuple(map(int, self._get(attributes, "rle").split(",")))
            except ValueError:
                raise ValueError(f"{self._where()}: the rle of a mask is no list of runs") from None
        else:
            keys = ("xtl", "ytl", "xbr", "ybr") if tag == "box" else ("cx", "cy", "rx", "ry")
            values = tuple(self._real(attributes, key) for key in keys)
        in_track = self._track is not None
        image = self._image
        return {
            "kind": tag,
            "frame": self._whole(attributes, "frame") if image is None else image.number,
            "values": values,
            "label": self._track.label if self._track else self._get(attributes, "label"),
            "rotation": self._real(attributes, "rotation", 0.0),
            "runs": runs,
            "outside": in_track and attributes.get("outside") == "1",
            "occluded": attributes.get("occluded") == "1",
            "z_order": self._whole(attributes, "z_order", 0),
            "group": self._track.group if self._track else self._whole(attributes, "group_id", 0),
            "attributes": {},
        }

    def _points(self, text: str) -> tuple[float, ...]:
        try:
            pairs = [pair.split(",") for pair in text.split(";")]
            values = tuple(float(number) for x, y in pairs for number in (x, y))
        except ValueError:
            raise ValueError(
                f"{self._where()}: points are {text!r:.40}; needed is x,y;x,y;..."
            ) from None
        return tuple(self._finite(value) for value in values)

    def _get(self, attributes: Mapping[str, str], key: str) -> str:
        if key not in attributes:
            raise ValueError(f"{self._where()}: {self._path[-1]} has no {key}")
        return attributes[key]

    def _whole(self, attributes: Mapping[str, str], key: str, default: int | None = None) -> int:
        if default is not None and not attributes.get(key):
            return default
        return self._to_int(self._get(attributes, key), key)

    def _to_int(self, text: str, key: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = 2**31
        if abs(value) >= 2**31:
            raise ValueError(f"{self._where()}: {key} is {text!r:.40}; needed is a whole number")
        return value

    def _real(self, attributes: Mapping[str, str], key: str, default: float | None = None) -> float:
        if default is not None and not attributes.get(key):
            return default
        text = self._get(attributes, key)
        try:
            return self._finite(float(text))
        except ValueError:
            raise ValueError(
                f"{self._where()}: {key} is {text!r:.40}; needed is a number"
            ) from None

    def _finite(self, value: float) -> float:
        if not abs(value) <= 1e6:  # NaN, too
            raise ValueError(f"{self._where()}: {value!r} is no pixel position")
        return value
