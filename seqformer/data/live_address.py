"""Which texts name a camera or an address in the place of a file. Loads nothing."""

from __future__ import annotations

import re

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "tcp", "udp", "rtp", "srt")
_ADDRESS = re.compile(rf"(?:camera:\d+|(?:{'|'.join(SCHEMES)})://\S+)", re.IGNORECASE)


def is_live(text: str) -> bool:
    """Whether a text names a camera ("camera:0") or an address ("rtsp://...")."""
    return _ADDRESS.fullmatch(text) is not None


def without_password(address: str) -> str:
    """An address as it may be shown: logs and files are read by others."""
    return re.sub(r"(://[^/@\s:]*):[^/\s]*@", r"\1:***@", address)
