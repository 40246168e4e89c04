"""ImageNet weights of the backbones: found where other programs keep them, or downloaded.

Looked for are the files that the published models start from: torchvision's first editions and the
official Swin files in torch's folder, the same weights as timm keeps them in the cache of the
Hugging Face hub. torchvision's names end in the first digits of the SHA-256 of the content, and
files of the hub are stored under it, so both are checked; the official Swin files carry none, and
reading them finds what is cut off.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .weight_files import read_weights

logger = logging.getLogger(__name__)

_TORCHVISION = "https://download.pytorch.org/models/"
_SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
URLS: dict[str, tuple[str, ...]] = {
    "resnet50": (_TORCHVISION + "resnet50-0676ba61.pth", _TORCHVISION + "resnet50-19c8e357.pth"),
    "resnet101": (_TORCHVISION + "resnet101-63fe2227.pth", _TORCHVISION + "resnet101-5d3b4d8f.pth"),
    "resnext101_32x8d": (_TORCHVISION + "resnext101_32x8d-8ba56ff5.pth",),
    "swin_t": (_SWIN + "swin_tiny_patch4_window7_224.pth",),
    "swin_s": (_SWIN + "swin_small_patch4_window7_224.pth",),
    "swin_b": (_SWIN + "swin_base_patch4_window7_224_22k.pth",),
    "swin_l": (_SWIN + "swin_large_patch4_window12_384_22k.pth",),
}
"""Files of each backbone; the first one is downloaded."""
_TIMM = {
    "resnet50": "resnet50.tv_in1k",
    "resnet101": "resnet101.tv_in1k",
    "resnext101_32x8d": "resnext101_32x8d.tv_in1k",
    "swin_t": "swin_tiny_patch4_window7_224.ms_in1k",
    "swin_s": "swin_small_patch4_window7_224.ms_in1k",
    "swin_b": "swin_base_patch4_window7_224.ms_in22k",
    "swin_l": "swin_large_patch4_window12_384.ms_in22k",
}
"""The same weights by timm's names."""
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
TIMEOUT_SECONDS = 30.0
"""A server that says nothing for so long counts as absent."""


def find_backbone_weights(backbone: str) -> Path | None:
    """A file of ImageNet weights in a cache of this machine; None where there is none.

    A file that is not what its name says is passed by, with a warning.
    """
    for path, digest in _candidates(backbone):
        if not path.is_file():
            continue
        own = _sha256(path) if digest else ""
        if own.startswith(digest):
            return path
        logger.warning(
            "%s is damaged and is passed by: the SHA-256 of its content begins with %s and not "
            "with %s",
            path,
            own[: len(digest)],
            digest,
        )
    return None


def download_backbone_weights(backbone: str, show_progress: bool = True) -> Path:
    """Fetch the file into torch's folder, where torchvision and others find it, too.

    Raises: ValueError in one sentence that says which file to put where.
    """
    url = URLS[backbone][0]
    target = torch_folder() / url.rpartition("/")[2]
    digest = _digest_in_name(target.name)
    logger.info("downloading %s to %s", url, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _time_limit():
            # Into a temporary file beside it, which is compared with the checksum before it moves.
            torch.hub.download_url_to_file(url, str(target), digest or None, show_progress)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ValueError(_remedy(backbone, url, target, f"cannot be fetched ({reason})")) from None
    except RuntimeError as error:  # the checksum
        reason = f"did not arrive whole ({error})"
        raise ValueError(_remedy(backbone, url, target, reason)) from None
    if not digest:
        try:
            read_weights(target)
        except ValueError as error:
            target.unlink(missing_ok=True)
            reason = f"did not arrive whole ({error})"
            raise ValueError(_remedy(backbone, url, target, reason)) from None
    return target


def torch_folder() -> Path:
    """Where torch keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _remedy(backbone: str, url: str, target: Path, what: str) -> str:
    return (
        f"ImageNet weights of {backbone} are in no cache of this machine, and {url} {what}; "
        f"download that file elsewhere and put it to {target}, or give another with "
        "--backbone-weights FILE"
    )


def _candidates(backbone: str) -> Iterator[tuple[Path, str]]:
    """Where a file may be, and with what its SHA-256 begins ("" where nothing tells it)."""
    for url in URLS[backbone]:
        name = url.rpartition("/")[2]
        yield torch_folder() / name, _digest_in_name(name)
    snapshots = _hub_folder() / f"models--timm--{_TIMM[backbone]}" / "snapshots"
    if snapshots.is_dir():
        for snapshot in sorted(snapshots.iterdir()):
            for name in _HUB_FILES:
                path = snapshot / name
                stored_as = path.resolve().name
                is_digest = re.fullmatch(r"[0-9a-f]{64}", stored_as) is not None
                yield path, stored_as if is_digest else ""


def _hub_folder() -> Path:
    """The cache of the Hugging Face hub, by the rules of its library."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    return Path(home).expanduser() / "hub"


def _digest_in_name(name: str) -> str:
    """The digits in "resnet50-0676ba61.pth"; "" where there are none."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    return match[1] if match else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _time_limit() -> Iterator[None]:
    """For a server that does not answer; the download names no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
