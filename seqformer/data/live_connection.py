"""Opening a camera or an address by FFmpeg; what its errors mean, and what to do."""

from __future__ import annotations

import errno
import glob
import sys
from typing import Any

import av

from seqformer.data.live_address import SCHEMES, without_password

OPEN_SECONDS, READ_SECONDS = 15.0, 15.0
"""How long a connection, and then a frame, may take."""

_PROTOCOLS = ",".join((*SCHEMES, "httpproxy", "tls", "crypto"))
"""No file: a playlist from elsewhere must not make us read ours."""
_CAMERA = {
    errno.ENOENT: "there is no such camera",
    errno.EACCES: "this user may not read it; join the group `video`, or see who owns the device",
    errno.EPERM: "this user may not read it; join the group `video`, or see who owns the device",
    errno.EBUSY: "another program uses it; close that one",
    errno.ENODEV: "the camera is gone; was it unplugged?",
    errno.EIO: "the camera does not answer; was it unplugged?",
    errno.EINVAL: "it is no camera that sends pictures",
    errno.ENOTTY: "it is no camera",
}
_ADDRESS = {
    errno.ECONNREFUSED: "nobody listens there; is the sender running, and the port right?",
    errno.ECONNRESET: "the sender closes the connection at once",
    errno.ETIMEDOUT: "the host does not answer; is it on, and in reach of this machine?",
    errno.EHOSTUNREACH: "the host is not in reach of this machine",
    errno.ENETUNREACH: "there is no network to that host",
    errno.EIO: "the host is unknown or does not answer; is its name right?",
    errno.EADDRINUSE: "another program listens there already",
}


def connect(address: str) -> Any:
    """An open container of PyAV.

    Args:
        address: one that `live_address.is_live`.

    Raises: ValueError naming the address, what is wrong and what to do.
    """
    timeout = (OPEN_SECONDS, READ_SECONDS)
    try:
        if _is_camera(address):
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
    except (av.FFmpegError, OSError, ValueError) as error:
        shown = without_password(address)
        raise ValueError(f"{shown} cannot be opened: {words_of(error, address)}") from None


def is_end(error: Exception, address: str) -> bool:
    """Whether an error while frames come says no more than that the sender sends no more: so HTTP
    without a length, and servers that stop."""
    number = getattr(error, "errno", None)
    return not _is_camera(address) and number in (errno.EIO, errno.ECONNRESET, errno.EPIPE)


def words_of(error: Exception, address: str) -> str:
    """What an error of FFmpeg says of an address, and what to do."""
    if isinstance(error, av.error.ExitError):  # its word for our limit of time
        return f"nothing came for {READ_SECONDS:g} seconds; is it still sending?"
    if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        scheme, _, rest = without_password(address).partition("://")
        place = rest.partition("@")[2] or rest
        return f"it wants another name and password: {scheme}://NAME:PASSWORD@{place}"
    if isinstance(error, av.error.HTTPNotFoundError):
        return "the sender does not know this path"
    if isinstance(error, av.error.InvalidDataError):
        return "what it sends is no video that FFmpeg knows"
    known = _CAMERA if _is_camera(address) else _ADDRESS
    meaning = known.get(getattr(error, "errno", None) or 0)
    text = str(getattr(error, "strerror", None) or error)
    if meaning is None:
        return text
    is_missing = known is _CAMERA and getattr(error, "errno", None) == errno.ENOENT
    return f"{meaning} ({text}{_cameras() if is_missing else ''})"


def _is_camera(address: str) -> bool:
    return address.lower().startswith("camera:")


def _cameras() -> str:
    """Those that Linux lists."""
    if sys.platform != "linux":
        return ""
    names = sorted(f"camera:{path.removeprefix('/dev/video')}" for path in _devices())
    return f"; there are: {', '.join(names)}" if names else "; this machine has none"


def _devices() -> list[str]:
    return glob.glob("/dev/video[0-9]*")
