"""`seqformer eval` on a camera or an address: results while frames come, and how late they are.

Every frame goes through `Predictor.stream`; then the tracks of that frame are drawn, and the film
of what was seen is written. The end is the sender's, `--live-frames`, or Ctrl-C: in any case the
film, the results and the latencies are written.
"""

from __future__ import annotations

import gc
import logging
import math
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seqformer.data.live_source import LiveFrame, LiveSource
from seqformer.inference.prediction import VideoPrediction
from seqformer.inference.predictor import Predictor
from seqformer.inference.stream import StreamLimits, VideoStream
from seqformer.visualization.drawing import Colours, iterate_drawn
from seqformer.visualization.video_writer import DEFAULT_FPS, FPS_RANGE, write_video

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
_STEP = 1.01
_LEAST_SECONDS = 1e-5


class Latencies:
    """Quantiles of any number of durations in constant memory, to 1 %."""

    def __init__(self) -> None:
        self.count = 0
        self._buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Count one."""
        self.count += 1
        bucket = math.floor(math.log(max(seconds, _LEAST_SECONDS) / _LEAST_SECONDS, _STEP))
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def quantile(self, share: float) -> float:
        """Seconds that `share` (0..1) of them do not exceed; NaN without any."""
        left = share * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return _LEAST_SECONDS * _STEP ** (bucket + 0.5)
        return math.nan


@dataclass
class LiveReport:
    """What a live run tells of itself.

    Attributes:
        source: the address.
        frames: computed. dropped: let go. seconds: from the first frame to the end.
        latencies: from a frame's arrival to its tracks.
        ended: why.
    """

    source: str
    frames: int = 0
    dropped: int = 0
    seconds: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)
    ended: str = ""

    def as_json(self) -> dict[str, Any]:
        """Numbers and words; milliseconds to a hundredth."""
        p50, p99 = (self.latencies.quantile(share) for share in (0.5, 0.99))
        return {
            "source": self.source,
            "frames": self.frames,
            "dropped": self.dropped,
            "seconds": round(self.seconds, 3),
            "frames_per_second": round(self.frames / self.seconds, 2) if self.seconds else 0.0,
            "latency_ms_p50": round(1e3 * p50, 2) if self.frames else None,
            "latency_ms_p99": round(1e3 * p99, 2) if self.frames else None,
            "ended": self.ended,
        }

    def sentence(self) -> str:
        """The same for a reader."""
        told = self.as_json()
        if not self.frames:
            return f"{self.source}: no frame came ({self.ended})"
        return (
            f"{self.source}: {self.frames} frames at {told['frames_per_second']:.1f} a second, "
            f"{self.dropped} dropped; latency p50 {told['latency_ms_p50']:.0f} ms, p99 "
            f"{told['latency_ms_p99']:.0f} ms ({self.ended})"
        )


def follow(
    predictor: Predictor,
    source: LiveSource,
    keep: int,
    most_frames: int | None = None,
    film: Path | None = None,
    fps: float | None = None,
    min_score: float = 0.3,
) -> tuple[VideoPrediction | None, LiveReport]:
    """Compute frames as they come, until they end or Ctrl-C.

    Args:
        predictor: with `chunk_frames` of its config at 1, or frames wait for others.
        source: open.
        keep: how many of the latest frames the returned results are of, at least.
        most_frames: end after so many; None for no end.
        film: video file to write, with results drawn; a dropped frame shows the one before.
        fps: of the film; by default that of the source.
        min_score: results below it are not drawn.

    Returns: results of the frames kept, None when no frame came; and the report.
    Raises: WriteError when the film cannot be written.
    """
    limits = StreamLimits(
        window=keep, memory_mib=predictor.limits.memory_mib, folder=predictor.limits.folder
    )
    report = LiveReport(source.address)
    with predictor.stream(limits) as stream, _short_collections(), _interrupted() as interrupted:
        steps = _steps(stream, source, report, most_frames, interrupted)
        with closing(steps):
            if film is None:
                for _ in steps:
                    pass
            else:
                _write(film, _drawn(steps, min_score), fps or source.fps)
        prediction = stream.tracks() if stream.num_frames else None
    return prediction, report


def _steps(
    stream: VideoStream,
    source: LiveSource,
    report: LiveReport,
    most_frames: int | None,
    interrupted: threading.Event,
) -> Generator[tuple[LiveFrame, VideoPrediction]]:
    """Each frame with its tracks; keeps the report."""
    first = None
    while True:
        if interrupted.is_set():
            report.ended = "interrupted"
            return
        if report.frames == most_frames:
            report.ended = f"after {most_frames} frames"
            return
        frame = source.take(_POLL_SECONDS)
        if frame is None:
            if source.is_over:
                report.ended = source.problem or "the source ended"
                return
            continue
        first = frame.arrived if first is None else first
        try:
            stream.push(frame.picture)
        except ValueError as error:  # frames of another size, most likely
            report.ended = str(error)
            logger.warning("%s: %s; what came before is kept", source.address, error)
            return
        tracks = stream.tracks(last=1)
        now = time.monotonic()
        report.frames += 1
        report.dropped = source.dropped
        report.latencies.add(now - frame.arrived)
        report.seconds = now - first
        yield frame, tracks


def _drawn(
    steps: Iterator[tuple[LiveFrame, VideoPrediction]], min_score: float
) -> Iterator[np.ndarray]:
    colours: Colours = {}
    before: np.ndarray | None = None
    for frame, tracks in steps:
        if before is not None:
            for _ in range(frame.dropped):
                yield before
        (before,) = iterate_drawn(
            [frame.picture], tracks.detections, tracks.names, min_score, colours
        )
        yield before


def _write(film: Path, pictures: Iterator[np.ndarray], fps: float | None) -> None:
    first = next(pictures, None)
    if first is None:
        return
    low, high = FPS_RANGE

    def all_pictures() -> Iterator[np.ndarray]:
        yield first
        yield from pictures

    write_video(film, all_pictures(), min(max(fps or DEFAULT_FPS, low), high))


@contextmanager
def _short_collections() -> Iterator[None]:
    """Inside, a full garbage collection leaves alone what was there before. With torch loaded it
    would look at 300,000 objects, for as long as several frames take to come."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C or SIGTERM sets the event; the second does what it did before."""
    event = threading.Event()
    before: dict[int, Any] = {}

    def hear(number: int, frame: Any) -> None:
        event.set()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, hear)
    try:
        yield event
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)
