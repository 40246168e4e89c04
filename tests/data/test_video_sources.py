"""Finding and reading videos, and saying in words what is wrong with them."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from seqformer.data.video_sources import find_videos, listed_videos, open_video
from seqformer.visualization.video_writer import write_video


def write_frames(folder, names, value=100):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (24, 16), (value, value, value)).save(folder / name)


def test_frames_are_in_natural_order(tmp_path):
    write_frames(tmp_path / "clip", ["f10.jpg", "f9.jpg", "f100.png", "F1²-2.jpg"])
    (tmp_path / "clip" / "notes.txt").write_text("no frame")
    (tmp_path / "clip" / "._f9.jpg").write_text("no frame either")
    (source,) = find_videos(tmp_path / "clip")
    assert [p.name for p in source.paths] == ["F1²-2.jpg", "f9.jpg", "f10.jpg", "f100.png"]
    assert (source.name, source.first_file_name) == ("clip", "clip/F1²-2.jpg")
    assert [f.shape for f in source.frames()] == [(16, 24, 3)] * 4
    assert source.fps() is None


def test_folder_of_folders_and_video_files(tmp_path):
    write_frames(tmp_path / "b2", ["0.jpg"])
    write_frames(tmp_path / "b10", ["0.jpg", "1.jpg"])
    (tmp_path / "empty").mkdir()
    write_video(tmp_path / "a.mp4", [np.zeros((16, 24, 3), np.uint8)] * 3, fps=4)
    write_video(tmp_path / "b2.mp4", [np.zeros((16, 24, 3), np.uint8)] * 2, fps=4)
    sources = find_videos(tmp_path)
    assert [(s.video_id, s.name) for s in sources] == [
        (1, "a"),
        (2, "b2_2"),
        (3, "b2_3"),
        (4, "b10"),
    ]
    assert [len(list(s.frames())) for s in sources] == [3, 1, 2, 2]
    assert sources[0].fps() == 4
    assert str(sources[3]) == "video 4 (b10)"


def test_annotated_videos_lie_under_the_images_folder(tmp_path):
    def video(number, *names):
        return SimpleNamespace(id=number, file_names=names, height=16, width=24)

    listed = SimpleNamespace(
        videos=[video(7, "a/0.jpg", "a/1.jpg"), video(8, "a/5.jpg"), video(9), video(10, "0.jpg")]
    )
    sources = listed_videos(listed, tmp_path)
    assert [s.name for s in sources] == ["a_7", "a_8", "video_9", "video_10"]
    assert sources[0].paths == (tmp_path / "a/0.jpg", tmp_path / "a/1.jpg")
    assert list(sources[2].frames()) == []


def test_video_of_a_turned_phone_is_upright(tmp_path):
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, :32] = 255
    write_video(tmp_path / "a.mp4", [frame] * 2)
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = content.index(b"tkhd") + 44  # of the track header: how to show the picture
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 2**30)
    (tmp_path / "a.mp4").write_bytes(content)
    upright = next(iter(find_videos(tmp_path / "a.mp4")[0].frames()))
    assert upright.shape == (64, 32, 3)  # a quarter turn clockwise: left becomes top
    assert upright[:30].min() > 200 and upright[34:].max() < 50


def test_missing_and_empty_places_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        find_videos(tmp_path / "none")
    with pytest.raises(ValueError, match="no images, no folders of images and no video files"):
        find_videos(tmp_path)
    with pytest.raises(ValueError, match="holds no images"):
        open_video(tmp_path)


def test_broken_files_are_named(tmp_path):
    write_frames(tmp_path / "clip", ["0.jpg", "1.jpg"])
    cut = (tmp_path / "clip" / "1.jpg").read_bytes()[:-40]
    (tmp_path / "clip" / "1.jpg").write_bytes(cut)
    with pytest.raises(ValueError, match=r"1\.jpg"):
        list(open_video(tmp_path / "clip").frames())
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(ValueError, match=r"text\.mp4 cannot be decoded"):
        list(open_video(tmp_path / "text.mp4").frames())
    write_video(tmp_path / "a.mp4", [np.zeros((64, 64, 3), np.uint8)] * 9)
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be decoded"):
        list(open_video(tmp_path / "a.mp4").frames())
