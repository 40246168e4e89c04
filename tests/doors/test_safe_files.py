"""Files that are no files, names that lead elsewhere, and what unpacks to more than it says."""

from __future__ import annotations

import json
import os
import socket
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from seqformer.annotations.coco import load_coco_file
from seqformer.annotations.ytvis import load_annotation_file
from seqformer.data.frames import read_frame
from seqformer.data.video_sources import listed_videos, open_video
from seqformer.evaluation import evaluate
from seqformer.inference.results_file import load_results
from seqformer.inference.scoring import has_ground_truth
from seqformer.model import load_checkpoint
from seqformer.safe_files import inside
from seqformer.tools.annotation_json import read_content
from seqformer.tools.track_builder import read_labels

TRUTH = {
    "videos": [{"id": 1, "height": 4, "width": 5, "file_names": ["a/0.png"]}],
    "categories": [{"id": 1, "name": "one"}],
    "annotations": [],
}
READERS = {
    "frame": read_frame,
    "mask picture": read_labels,
    "video": lambda path: list(open_video(path).frames()),
    "annotations": load_annotation_file,
    "stills": lambda path: load_coco_file(path, "as_is"),
    "truth": lambda path: evaluate(path, []),
    "truth, looked at": has_ground_truth,
    "tools": read_content,
    "results": lambda path: evaluate(TRUTH, path),
    "drawn results": load_results,
    "weights": load_checkpoint,
}


def pipe(path: Path) -> str:
    os.mkfifo(path)
    return "is a pipe"


def listening(path: Path) -> str:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.close()
    return "is a socket"


def device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "is a device"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [pipe, listening, device])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_refused_and_not_waited_for(reader, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = Path("it.png")
    words = make(path)
    with pytest.raises(ValueError, match=words):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_folders_and_loops_are_refused(reader, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises((ValueError, OSError)):
        READERS[reader](tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder"):
        READERS[reader](tmp_path / "folder")


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/passwd", "a/../../b.png", "a/b/../../../c", "..", "x\0y"]
)
def test_names_that_leave_the_folder_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"leads out|is no file name"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["a.png", "a/b/../c.png", "a..b/..c.png", "./a.png", "...png"])
def test_names_that_stay_are_taken(name, tmp_path):
    assert inside(tmp_path, name) == tmp_path / name


def test_the_videos_of_a_file_stay_in_the_folder_unless_allowed(tmp_path):
    content = json.loads(json.dumps(TRUTH))
    content["videos"][0]["file_names"] = ["../secret.png"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    loaded = load_annotation_file(tmp_path / "a.json")
    with pytest.raises(ValueError, match="--allow-outside"):
        listed_videos(loaded, tmp_path / "images")
    (source,) = listed_videos(loaded, tmp_path / "images", allow_outside=True)
    assert source.paths[0].resolve() == tmp_path / "secret.png"


def damaged(kind: str, path: Path) -> None:
    """A zip of results that cannot be unpacked."""
    method = zipfile.ZIP_STORED if kind == "method" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("results.json", "[" + " " * 3_000_000 + "]")
    data = bytearray(path.read_bytes())
    start, listed = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    if kind == "bytes":
        data[start + 60 : start + 64] = b"\xff\xff\xff\xff"
    elif kind == "encrypted":
        data[start + 6] |= 1
        data[listed + 8] |= 1
    elif kind == "method":
        data[start + 8 : start + 10] = data[listed + 10 : listed + 12] = b"\x63\0"
    elif kind == "cut":
        del data[len(data) // 2 :]
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["bytes", "encrypted", "method", "cut", "bomb"])
def test_a_zip_that_cannot_be_unpacked_is_refused_in_a_sentence(kind, tmp_path, monkeypatch):
    path = tmp_path / "results.zip"
    damaged(kind, path)
    monkeypatch.setenv("SEQFORMER_MAX_UNPACKED_MIB", "2" if kind == "bomb" else "1000")
    for read in (load_results, lambda p: evaluate(TRUTH, p)):
        with pytest.raises(ValueError, match=r"results\.zip") as error:
            read(path)
        assert "\n" not in str(error.value)
    if kind == "bomb":
        monkeypatch.setenv("SEQFORMER_MAX_UNPACKED_MIB", "4")
        assert load_results(path) == []


def png_of(height: int, width: int) -> bytes:
    """A picture of zeros in a few kilobytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + width)
    body = b"".join(packer.compress(row) for _ in range(min(height, 64))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def test_a_picture_is_refused_by_the_size_that_it_claims(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    for side in (12_000, 60_000):
        path.write_bytes(png_of(side, side))
        for read in (read_frame, read_labels):
            with pytest.raises(ValueError, match=r"pixels, .*SEQFORMER_MAX_PIXELS"):
                read(path)
    path.write_bytes(png_of(50, 60))
    monkeypatch.setenv("SEQFORMER_MAX_PIXELS", "2999")
    with pytest.raises(ValueError, match="50 x 60 pixels, more than 2999"):
        read_frame(path)
    monkeypatch.setenv("SEQFORMER_MAX_PIXELS", "3000")
    assert read_frame(path).shape == (50, 60, 3)
    monkeypatch.setenv("SEQFORMER_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="SEQFORMER_MAX_PIXELS is 'many'"):
        read_frame(path)
