"""Video files: which stream is the film, its frames the right way up, and whether all of it came.

FFmpeg ends the reading of a file that was cut off as it ends any other. So what the file announces
is compared with what came: packets where it names their number, else the time of the last frame.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType

from seqformer.data.video_ends import cut_short, has_part_of_a_packet
from seqformer.safe_files import check_pixels, check_regular

logger = logging.getLogger(__name__)

TOLERANCE = 2
"""Frames that may be missing: containers round, and encoders hold some back."""
LONGER_SOUND = 1.0
"""Seconds by which sound may outlast the picture where only the length of both together is told."""
_OPTIONS = {"protocol_whitelist": "file"}
"""A playlist in the place of a video must not make us fetch addresses."""
_ATTACHED_PICTURE = 1024
"""FFmpeg's flag of a cover picture."""
_DAMAGED = (av.FFmpegError, ValueError, OSError, IndexError, OverflowError, MemoryError)


@dataclass
class _Announced:
    """What a file says of its film before it is decoded."""

    packets: int
    """0: it does not say."""
    seconds: float
    """0: it does not say."""
    rate: float
    """Frames per second; 0: it does not say."""
    is_exact: bool
    """Whether `seconds` is the length of the film itself, not of film and sound together."""

    @classmethod
    def of(cls, container: Any, stream: Any) -> _Announced:
        seconds, is_exact = 0.0, True
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif (tagged := _seconds(stream.metadata.get("DURATION", ""))) > 0:
            seconds = tagged
        elif container.duration:
            seconds = container.duration / av.time_base
            is_exact = len(container.streams) == 1
        rate = float(stream.average_rate or 0)
        return cls(max(0, stream.frames), max(0.0, seconds), rate, is_exact)

    def frames(self) -> int:
        """Frames, as far as that is known; 0: it is not."""
        return self.packets or round(self.seconds * self.rate)


@dataclass
class _Received:
    """What came of it."""

    packets: int = 0
    frames: int = 0
    corrupt: int = 0
    """Frames that the decoder or the container flags, and packets that do not decode."""
    end: float = 0.0
    """Seconds from the first frame to the end of the last one."""

    def missing(self, announced: _Announced) -> tuple[float, str]:
        """How many frames did not come, and both numbers in words."""
        if announced.packets:
            words = f"it announces {announced.packets} frames and has {self.packets}"
            return announced.packets - self.packets, words
        if not announced.seconds or not announced.rate:
            return 0.0, ""  # nothing to compare with
        seconds = announced.seconds - self.end
        if not announced.is_exact and seconds <= LONGER_SOUND:
            return 0.0, ""
        return seconds * announced.rate, (
            f"it announces {announced.seconds:.2f} seconds, about {announced.frames()} frames, and "
            f"ends after {self.end:.2f} seconds and {self.frames} frames"
        )


def read_video(path: Path, allow_broken: bool = False) -> Iterator[np.ndarray]:
    """Decode a video file, frame by frame, to uint8 RGB [h0, w0, 3], upright as players show it.

    Of several streams the largest that is no cover picture is taken.

    Args:
        allow_broken: only warn, at the end, where frames are damaged or missing.

    Raises: FileNotFoundError; ValueError when it is no video or too large, and at its end where it
        breaks off or had damaged frames.
    """
    check_regular(path, "video")
    announced, received, kind = None, _Received(), ""
    try:
        with _open(path) as container:
            stream, kind = film_stream(container), container.format.name
            if stream is None:
                raise ValueError(f"{path} has no picture stream")
            check_pixels(stream.codec_context.height, stream.codec_context.width, str(path))
            announced = _Announced.of(container, stream)
            stream.thread_type = "AUTO"
            yield from _decoded(path, container, stream, received, allow_broken)
    except av.FFmpegError as error:
        if not received.frames or not allow_broken:
            raise ValueError(
                f"{path} cannot be decoded as a video ({error.strerror}; {received.frames} frames "
                "came before)"
            ) from None
        logger.warning("%s ends in an error (%s); it is taken as it is", path, error.strerror)
    if announced is None or not received.frames:
        raise ValueError(f"{path} holds no frame that can be decoded; copy it again")
    missing, words = received.missing(announced)
    problem = ""
    if missing > TOLERANCE + 0.5:
        problem = f"breaks off: {words}"
    elif received.corrupt:
        problem = f"has {received.corrupt} damaged frames among {received.frames}"
    elif cut := cut_short(path, kind):
        problem = f"breaks off after {received.frames} frames: {cut}"
    elif has_part_of_a_packet(path, kind):  # recordings end so when they are stopped
        words, missing = "its last packet is a part of one", max(missing, 1.0)
    if problem and not allow_broken:
        raise ValueError(f"{path} {problem}; copy it again, or take what there is (--allow-broken)")
    if problem or missing > 0.5:
        logger.warning("%s %s; it is taken as it is", path, problem or f"may break off: {words}")


def _decoded(
    path: Path, container: Any, stream: Any, received: _Received, allow_broken: bool
) -> Iterator[np.ndarray]:
    first = None
    size = (0, 0)
    for packet in container.demux(stream):
        if packet.size:
            received.packets += 1
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if not allow_broken:
                raise
            received.corrupt += 1
            continue
        for frame in frames:
            received.frames += 1
            received.corrupt += bool(frame.is_corrupt or packet.is_corrupt)
            if frame.pts is not None and frame.time_base:
                time = float(frame.pts * frame.time_base)
                first = time if first is None else min(first, time)
                length = float((getattr(frame, "duration", 0) or 0) * frame.time_base)
                received.end = max(received.end, max(time, time - first) + length)
            if (frame.height, frame.width) != size:
                size = frame.height, frame.width
                check_pixels(*size, str(path))
            yield upright_frame(frame)


def upright_frame(frame: Any) -> np.ndarray:
    """A decoded frame of PyAV as uint8 RGB [h, w, 3], upright."""
    matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    return turned(frame.to_ndarray(format="rgb24"), matrix and bytes(matrix))


def turned(picture: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """A decoded picture [h, w, 3] as its display matrix shows it: any of the eight ways up.

    Args:
        matrix: nine int32, of which x' = a x + c y and y' = b x + d y are used; None: as it is.
    """
    if not matrix or len(matrix) < 36:
        return picture
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(np.int64).tolist()
    if not a * d - b * c:
        return picture  # nothing would be seen
    if abs(a) + abs(d) < abs(b) + abs(c):
        picture, across, down = picture.swapaxes(0, 1), c, b
    else:
        across, down = a, d
    if across < 0:
        picture = picture[:, ::-1]
    if down < 0:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def film_stream(container: Any) -> Any:
    """The picture stream that is the film; None where there is none but a cover.

    No cover picture or single picture beside a film, then the largest, then the one that is marked
    as the usual choice, then the first.
    """

    def rank(stream: Any) -> tuple[bool, int, bool]:
        context = stream.codec_context
        return stream.frames != 1, context.width * context.height, bool(int(stream.disposition) & 1)

    films = [
        stream
        for stream in container.streams.video
        if not int(stream.disposition) & _ATTACHED_PICTURE and stream.codec_context is not None
    ]
    return max(films, key=rank) if films else None


def announced_frames(path: Path) -> int:
    """Frames, as far as that is known without decoding; at least 1."""
    try:
        check_regular(path, "video")
        with _open(path) as container:
            stream = film_stream(container)
            return max(1, _Announced.of(container, stream).frames()) if stream else 1
    except _DAMAGED:
        return 1  # it will be reported when its turn comes


def frame_rate(path: Path) -> float | None:
    """Frames per second, if the file says so."""
    try:
        check_regular(path, "video")
        with _open(path) as container:
            stream = film_stream(container)
            return float(stream.average_rate) if stream and stream.average_rate else None
    except _DAMAGED:
        return None


def _open(path: Path) -> Any:
    # An absolute name is never taken for an address.
    return av.open(str(path.absolute()), options=_OPTIONS, metadata_errors="replace")


def _seconds(text: str) -> float:
    """Of "00:00:04.000000000", as Matroska files have it; 0 for anything else."""
    parts = text.strip().split(":")
    try:
        hours, minutes, seconds = map(float, parts)
    except ValueError:
        return 0.0
    return 3600 * hours + 60 * minutes + seconds
