"""Files as CVAT writes them: attributes, their order and formats as in its exporter."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 20, 30


def label_xml(name: str) -> str:
    return (
        f"<label><name>{escape(name)}</name><color>#ff007c</color><type>any</type><attributes>"
        "<attribute><name>pose</name><mutable>True</mutable><input_type>select</input_type>"
        "<default_value>up</default_value><values>up\ndown</values></attribute>"
        "</attributes></label>"
    )


def task_xml(
    labels: Sequence[str],
    start: int = 0,
    stop: int = 3,
    step: int = 1,
    source: str = "my film.mp4",
    size: tuple[int, int] | None = (HEIGHT, WIDTH),
    task_id: str = "7",
) -> str:
    frame_filter = f"step={step}" if step > 1 else ""
    original = ""
    if size is not None:
        width, height = size[1], size[0]
        original = f"<original_size><width>{width}</width><height>{height}</height></original_size>"
    return (
        f"<task><id>{task_id}</id><name>first task</name><size>{stop - start + 1}</size>"
        "<mode>interpolation</mode><overlap>0</overlap><bugtracker></bugtracker>"
        "<created>2026-01-01 00:00:00.000000+00:00</created><subset>default</subset>"
        f"<start_frame>{start}</start_frame><stop_frame>{stop}</stop_frame>"
        f"<frame_filter>{frame_filter}</frame_filter>"
        "<segments><segment><id>1</id><start>0</start><stop>3</stop><url>http://x</url></segment>"
        "</segments><owner><username>an</username><email></email></owner><assignee></assignee>"
        f"<labels>{''.join(label_xml(name) for name in labels)}</labels>{original}"
        f"<source>{escape(source)}</source></task>"
    )


def document(meta: str, body: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta>{meta}<dumped>2026-01-02 00:00:00+00:00</dumped></meta>\n{body}\n</annotations>\n"
    ).encode()


def rle_attributes(mask: np.ndarray) -> str:
    """rle, left, top, width and height, made without the code under test."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    runs, value, length = [], False, 0
    for pixel in cut.ravel().tolist():
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    runs.append(length)
    return (
        f'rle="{", ".join(map(str, runs))}" left="{columns[0]}" top="{rows[0]}" '
        f'width="{cut.shape[1]}" height="{cut.shape[0]}"'
    )


def points_attribute(points: Sequence[tuple[float, float]]) -> str:
    return "points=" + quoteattr(";".join(f"{x:.2f},{y:.2f}" for x, y in points))


def tracked(kind: str, frame: int, what: str, outside: int = 0, keyframe: int = 1, **more) -> str:
    occluded, z_order = more.get("occluded", 0), more.get("z_order", 0)
    return (
        f'<{kind} frame="{frame}" keyframe="{keyframe}" outside="{outside}" '
        f'occluded="{occluded}" {what} z_order="{z_order}">'
        f'<attribute name="pose">up</attribute>{more.get("attributes", "")}</{kind}>'
    )


def track(label: str, shapes: Sequence[str], group: int = 0, number: int = 0) -> str:
    own_group = f' group_id="{group}"' if group else ""
    return (
        f'<track id="{number}" label={quoteattr(label)} source="manual"{own_group}>'
        f"{''.join(shapes)}</track>"
    )


def picture(value: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(file, kind)
    return file.getvalue()


def zipped(path, members: dict[str, bytes]):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path
