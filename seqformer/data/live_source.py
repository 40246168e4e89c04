"""Frames from a camera or an address as they come, and what happens when they come too fast.

A thread decodes. What it has and nobody has taken yet waits in a mailbox: the newest frame only, or
all, and then the sender waits when the mailbox is full. PyAV does the reading.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np

from seqformer.data.video_reader import film_stream, upright_frame
from seqformer.safe_files import check_pixels

Policy = Literal["newest", "all"]

_PROTOCOLS = "rtsp,rtsps,rtmp,http,https,httpproxy,tcp,udp,rtp,srt,tls,crypto"
"""No file: a playlist from elsewhere must not make us read ours."""
MOST_WAITING = 64
"""Decoded frames that wait under the policy `all`."""
OPEN_SECONDS, READ_SECONDS = 15.0, 15.0
"""How long a connection, and then a frame, may take."""


@dataclass(frozen=True)
class LiveFrame:
    """A frame that has come.

    Attributes:
        picture: uint8 RGB [h0, w0, 3].
        arrived: when it was decoded, in seconds of `time.monotonic`.
        dropped: frames between the one before and this one that were let go.
    """

    picture: np.ndarray
    arrived: float
    dropped: int


class LiveSource:
    """An open camera or address. Use it in a `with` block.

    Attributes:
        address: as given.
        fps: frames per second as the sender says; None where it does not.
        dropped: frames let go so far, since nobody had taken the one before.
        problem: why it ended before its sender said so; "" if it did not.
    """

    def __init__(self, address: str, policy: Policy = "newest") -> None:
        """Connect, and begin to read.

        Args:
            address: one that `live_address.is_live`.
            policy: newest: a frame that nobody has taken makes room for the next. all: none is
                lost here; the sender waits, or lets go itself.

        Raises: ValueError naming the address when nothing answers, or no picture is sent.
        """
        self.address, self.dropped, self.problem = address, 0, ""
        self._policy = policy
        self._waiting: deque[LiveFrame] = deque()
        self._change = threading.Condition()
        self._is_over = self._is_closed = False
        self._skipped = 0  # since the last frame that was put into the mailbox and stayed
        try:
            self._container = _open(address)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ValueError(
                f"{address} cannot be opened ({_words(error)}); check that it sends and that this "
                "machine may read it"
            ) from None
        stream = film_stream(self._container)
        if stream is None:
            self._container.close()
            raise ValueError(f"{address} sends no picture")
        stream.thread_type = "SLICE"  # threads of frames would hold some back
        self.fps = float(stream.average_rate) if stream.average_rate else None
        self._thread = threading.Thread(
            target=self._read, args=(stream,), daemon=True, name="seqformer-live"
        )
        self._thread.start()

    def take(self, timeout: float | None = None) -> LiveFrame | None:
        """The next frame, waited for; None when there will be none, or after `timeout` seconds."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._is_over, timeout)
            if not self._waiting:
                return None
            frame = self._waiting.popleft()
            self._change.notify_all()
            return frame

    @property
    def is_over(self) -> bool:
        """Whether all has been taken and nothing will come."""
        with self._change:
            return self._is_over and not self._waiting

    def close(self) -> None:
        """End the connection."""
        with self._change:
            self._is_closed = True
            self._waiting.clear()
            self._change.notify_all()
        self._thread.join(READ_SECONDS + 1)

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, stream: Any) -> None:
        try:
            for frame in self._container.decode(stream):
                check_pixels(frame.height, frame.width, self.address)
                if not self._put(upright_frame(frame)):
                    break
        except (av.FFmpegError, OSError, ValueError) as error:
            self.problem = _words(error)
        finally:
            self._container.close()
            with self._change:
                self._is_over = True
                self._change.notify_all()

    def _put(self, picture: np.ndarray) -> bool:
        """Returns: whether to go on."""
        arrived = time.monotonic()
        with self._change:
            if self._policy == "newest":
                for old in self._waiting:
                    self._skipped += 1 + old.dropped
                    self.dropped += 1
                self._waiting.clear()
            else:
                room = lambda: self._is_closed or len(self._waiting) < MOST_WAITING  # noqa: E731
                self._change.wait_for(room)
            if self._is_closed:
                return False
            self._waiting.append(LiveFrame(picture, arrived, self._skipped))
            self._skipped = 0
            self._change.notify_all()
            return True


def _open(address: str) -> Any:
    timeout = (OPEN_SECONDS, READ_SECONDS)
    if address.lower().startswith("camera:"):
        number = address.partition(":")[2]
        name, kind = {
            "linux": (f"/dev/video{number}", "v4l2"),
            "darwin": (number, "avfoundation"),
        }.get(sys.platform, (f"video={number}", "dshow"))
        return av.open(name, format=kind, timeout=timeout)
    options = {"protocol_whitelist": _PROTOCOLS}
    if address.lower().startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    return av.open(address, options=options, timeout=timeout, metadata_errors="replace")


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
