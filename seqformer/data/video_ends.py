"""Whether a video file whose format announces no number of frames was cut off."""

from __future__ import annotations

import os
import re
from pathlib import Path

from seqformer.safe_files import open_regular

_TS_PACKETS = (188, 192, 204)
"""Bytes of a transport stream's packets: plain, of Blu-ray discs, with error correction."""
_Y4M_HEADER = 4096
"""Bytes in which a YUV4MPEG header ends."""
_GIF_TAIL = 64
_Y4M_PLANES = {"mono": (1, 1, 0), "420": (2, 2, 2), "411": (4, 1, 2), "422": (2, 1, 2)}
_Y4M_PLANES |= {"444": (1, 1, 2), "444alpha": (1, 1, 3)}
"""Chroma of a YUV4MPEG file -> (columns, rows) that share a value, and planes beside the first."""


def cut_short(path: Path, kind: str) -> str:
    """How a file tells that its end is missing, in words; "" where it does not tell.

    Args:
        kind: FFmpeg's name of its format.
    """
    if kind == "gif":
        return _gif(path)
    return _y4m(path) if kind == "yuv4mpegpipe" else ""


def has_part_of_a_packet(path: Path, kind: str) -> bool:
    """Whether a transport stream ends inside a packet; how much is missing, it does not tell."""
    size = path.stat().st_size
    return kind == "mpegts" and all(size % packet for packet in _TS_PACKETS)


def _gif(path: Path) -> str:
    with open_regular(path, "video") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _GIF_TAIL))
        tail = file.read()
    # Some programs leave out the last byte of all; the one before ends a picture.
    ends_whole = tail.rstrip(b"\0").endswith(b";") or (tail[-1:] == b"\0" and tail[-2:-1] != b"\0")
    return "" if ends_whole else "it ends in the middle of a picture"


def _y4m(path: Path) -> str:
    with open_regular(path, "video") as file:
        start = file.read(_Y4M_HEADER)
        size = file.seek(0, os.SEEK_END)
    header, end, rest = start.partition(b"\n")
    fields = {word[:1]: word[1:] for word in header.decode("ascii", "replace").split()[1:]}
    chroma = re.match(r"(mono|\d{3}(?:alpha)?)(?:.*?p(\d+))?", fields.get("C", "420"))
    if not end or not rest.startswith(b"FRAME\n") or chroma is None:
        return ""  # frames with parameters of their own differ in length
    name, bits = chroma.groups()
    if name not in _Y4M_PLANES or not all(fields.get(key, "").isdigit() for key in "WH"):
        return ""
    width, height = int(fields["W"]), int(fields["H"])
    across, down, planes = _Y4M_PLANES[name]
    values = width * height + planes * -(-width // across) * -(-height // down)
    frame = len(b"FRAME\n") + values * (2 if bits and int(bits) > 8 else 1)
    return "its last frame is a part of one" if (size - len(header) - 1) % frame else ""
