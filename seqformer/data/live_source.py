"""Frames from a camera or an address as they come, and what happens when they come too fast.

A thread decodes. What it has and nobody has taken yet waits in a mailbox: the newest frame only, or
all, and then the sender waits when the mailbox is full. PyAV does the reading.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np

from seqformer.data.live_address import without_password
from seqformer.data.live_connection import READ_SECONDS, connect, is_end, words_of
from seqformer.data.video_reader import film_stream, upright_frame
from seqformer.safe_files import check_pixels

logger = logging.getLogger(__name__)

Policy = Literal["newest", "all"]

MOST_WAITING = 64
"""Decoded frames that wait under the policy `all`."""
PAUSE_SECONDS = 0.5
"""Between two attempts to connect again."""
_PROBLEMS = (av.FFmpegError, OSError, ValueError)


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
    """A camera or address that is open; `begin` begins to read. Use it in a `with` block.

    Attributes:
        address: as given, but for a password.
        fps: frames per second as the sender says; None where it does not.
        size: (height, width) of a frame as the sender says; None where it does not.
        dropped: frames let go so far, since nobody had taken the one before.
        reconnected: how often it broke off and was opened again.
        problem: why it ended before its sender said so; "" if it did not.
    """

    def __init__(
        self, address: str, policy: Policy = "newest", reconnect_seconds: float = 0.0
    ) -> None:
        """Connect.

        Args:
            address: one that `live_address.is_live`.
            policy: newest: a frame that nobody has taken makes room for the next. all: none is
                lost here; the sender waits, or lets go itself.
            reconnect_seconds: how long to try again, once it has begun, after it broke off or
                ended.

        Raises: ValueError naming the address when nothing answers, or no picture is sent.
        """
        self.address, self.dropped, self.problem = without_password(address), 0, ""
        self.reconnected = 0
        self._whole_address, self._policy = address, policy
        self._reconnect_seconds = reconnect_seconds
        self._waiting: deque[LiveFrame] = deque()
        self._change = threading.Condition()
        self._is_over = self._is_closed = False
        self._skipped = 0  # since the last frame that was put into the mailbox and stayed
        self._container, self._stream = self._open()
        rate, codec = self._stream.average_rate, self._stream.codec_context
        self.fps = float(rate) if rate else None
        self.size = (codec.height, codec.width) if codec.height and codec.width else None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Read from now on."""
        self._thread = threading.Thread(target=self._read, daemon=True, name="seqformer-live")
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
        if self._thread is None:
            self._container.close()
        else:
            self._thread.join(READ_SECONDS + 1)

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> tuple[Any, Any]:
        """A container and its stream of pictures."""
        container = connect(self._whole_address)
        stream = film_stream(container)
        if stream is None:
            container.close()
            raise ValueError(f"{self.address} sends no picture; does it send sound only?")
        stream.thread_type = "SLICE"  # threads of frames would hold some back
        return container, stream

    def _read(self) -> None:
        try:
            self._read_once()
            while self._reconnects():
                self._read_once()
        finally:
            with self._change:
                self._is_over = True
                self._change.notify_all()

    def _read_once(self) -> None:
        """Until the connection ends; says in `problem` why."""
        self.problem = ""
        try:
            for frame in self._container.decode(self._stream):
                check_pixels(frame.height, frame.width, self.address)
                if not self._put(upright_frame(frame)):
                    break
        except _PROBLEMS as error:
            if not is_end(error, self._whole_address):
                self.problem = words_of(error, self._whole_address)
        finally:
            self._container.close()

    def _reconnects(self) -> bool:
        """Whether it is open again."""
        end = time.monotonic() + self._reconnect_seconds
        if self._reconnect_seconds > 0 and not self._is_closed:
            logger.warning(
                "%s %s; trying for %g seconds to open it again",
                *(self.address, self._how_it_ended(), self._reconnect_seconds),
            )
        while not self._is_closed and time.monotonic() < end:
            try:
                self._container, self._stream = self._open()
            except _PROBLEMS as error:
                logger.debug("%s", error)
                with self._change:
                    self._change.wait_for(lambda: self._is_closed, PAUSE_SECONDS)
                continue
            self.reconnected += 1
            return True
        return False

    def _how_it_ended(self) -> str:
        return f"broke off ({self.problem})" if self.problem else "ended"

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
