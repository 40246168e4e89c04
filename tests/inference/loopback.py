"""Servers on loopback that send a film again and again: over bare TCP, over HTTP, and over RTSP.

The RTSP server knows what a client needs to watch one stream: OPTIONS, DESCRIBE, SETUP with RTP
inside the connection, PLAY, TEARDOWN (RFC 2326), and MPEG-TS in RTP (RFC 2250).
"""

from __future__ import annotations

import io
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import av
import numpy as np

TS_PACKET = 188
_PACKETS_AT_ONCE = 7
_CLOCK = 90_000


def transport_stream(pictures: np.ndarray, fps: int = 25) -> bytes:
    """Frames [T, h, w, 3] uint8 as MPEG-TS, h and w even."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=fps)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"bf": "0"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


@contextmanager
def served(content: bytes, loops: int = 1, scheme: str = "tcp") -> Iterator[str]:
    """The address of a server that sends `content` so many times to its first client, then ends.

    Args:
        scheme: tcp, http or rtsp; the last two speak to any number of clients.
    """
    server = socket.create_server(("127.0.0.1", 0))
    send: Callable[[socket.socket, bytes, int], None]
    send = {"tcp": _send, "http": _send_http, "rtsp": _send_rtsp}[scheme]

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
                with connection:
                    send(connection, content, loops)
            except OSError:  # the reader has left, or the test is over
                if server.fileno() < 0 or scheme == "tcp":
                    return
            if scheme == "tcp":
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    path = "" if scheme == "tcp" else "/film.ts"
    try:
        yield f"{scheme}://127.0.0.1:{server.getsockname()[1]}{path}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def _send(connection: socket.socket, content: bytes, loops: int) -> None:
    for _ in range(loops):
        connection.sendall(content)


def _send_http(connection: socket.socket, content: bytes, loops: int) -> None:
    _request(connection)
    head = "HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode())
    _send(connection, content, loops)


def _request(connection: socket.socket) -> list[str]:
    """The lines of a request without a body; empty when the client has left."""
    text = b""
    while not text.endswith(b"\r\n\r\n"):
        more = connection.recv(1)
        if not more:
            return []
        text += more
    return text.decode().split("\r\n")


def _send_rtsp(connection: socket.socket, content: bytes, loops: int) -> None:
    session = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=film\r\nt=0 0\r\n"
    session += "m=video 0 RTP/AVP 33\r\nc=IN IP4 0.0.0.0\r\na=control:track\r\n"
    answers = {
        "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""),
        "DESCRIBE": ("Content-Type: application/sdp\r\n", session),
        "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""),
        "PLAY": ("Session: 1\r\n", ""),
        "TEARDOWN": ("Session: 1\r\n", ""),
    }
    while lines := _request(connection):
        method = lines[0].split()[0]
        number = next(line for line in lines if line.lower().startswith("cseq:"))
        head, body = answers[method]
        answer = f"RTSP/1.0 200 OK\r\n{number}\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
        connection.sendall(answer.encode())
        if method == "PLAY":
            _send_rtp(connection, content, loops)
        if method in ("PLAY", "TEARDOWN"):
            return


def _send_rtp(connection: socket.socket, content: bytes, loops: int) -> None:
    """RTP packets of payload type 33, each behind `$`, its channel and its length."""
    size = _PACKETS_AT_ONCE * TS_PACKET
    number = 0
    for _ in range(loops):
        for first in range(0, len(content), size):
            payload = content[first : first + size]
            time = number * _CLOCK // 25 % 2**32
            packet = struct.pack(">BBHII", 0x80, 33, number % 2**16, time, 1) + payload
            connection.sendall(struct.pack(">BBH", ord("$"), 0, len(packet)) + packet)
            number += 1
