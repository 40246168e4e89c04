"""Video files: whole, the right stream, the right way up."""

from __future__ import annotations

import io
import itertools
import logging
import re
import struct

import av
import numpy as np
import pytest
from PIL import Image

from seqformer.data.video_reader import film_stream, read_video, turned
from seqformer.data.video_sources import find_videos, open_video

N = 40


def film(path, codec="libx264", options=None, container=None, size=(48, 64), number=N):
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=10, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for t in range(number):
            frame = np.full((*size, 3), 20, np.uint8)
            frame[:, 2 * t % 58 : 2 * t % 58 + 6] = 200, 60, 30
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return path.read_bytes()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return {
        "mkv": film(folder / "a.mkv", options={"g": "5"}),
        "mp4": film(folder / "a.mp4", options={"g": "5"}, container={"movflags": "faststart"}),
        "webm": film(folder / "a.webm", "libvpx-vp9"),
        "avi": film(folder / "a.avi", "mpeg4"),
        "ts": film(folder / "a.ts", options={"g": "5"}),
    }


@pytest.mark.parametrize("kind", ["mkv", "mp4", "webm", "avi", "ts"])
def test_a_whole_film_is_read_without_a_word(kind, films, tmp_path, caplog):
    (tmp_path / f"a.{kind}").write_bytes(films[kind])
    assert sum(1 for _ in read_video(tmp_path / f"a.{kind}")) == N
    assert not caplog.records


def animation(path, number=N) -> bytes:
    """A GIF, or a film without compression, whose files announce no number of frames."""
    if path.suffix == ".gif":
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 255, (number, 48, 63, 3), np.uint8)
        frames = [Image.fromarray(frame) for frame in noise]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    else:
        chroma = path.stem
        colours = {"420jpeg": 2 * 32 * 24, "444": 2 * 63 * 48, "mono": 0, "420p10": 4 * 32 * 24}
        frame = bytes(63 * 48 * (2 if "p10" in chroma else 1) + colours[chroma])
        head = b"YUV4MPEG2 W63 H48 F10:1 Ip C%s\n" % chroma.encode()
        path.write_bytes(head + (b"FRAME\n" + frame) * number)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.gif", "420jpeg.y4m", "444.y4m", "mono.y4m", "420p10.y4m"])
def test_a_film_that_announces_nothing_is_refused_where_it_ends_inside_a_frame(name, tmp_path):
    path = tmp_path / name
    data = animation(path)
    assert sum(1 for _ in read_video(path)) == N
    if path.suffix == ".gif":
        path.write_bytes(data.removesuffix(b";"))
        assert sum(1 for _ in read_video(path)) == N
        path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
        with pytest.raises(ValueError, match=r"breaks off|cannot be decoded"):
            list(read_video(path))
    path.write_bytes(data[: int(0.63 * len(data)) | 1])
    with pytest.raises(ValueError, match=r"breaks off.* 2\d\b"):
        list(read_video(path))
    assert 24 <= sum(1 for _ in read_video(path, allow_broken=True)) <= 26


def test_a_stream_that_ends_inside_a_packet_may_break_off(films, tmp_path, caplog):
    (tmp_path / "a.ts").write_bytes(films["ts"][: len(films["ts"]) // 2 | 1])
    assert 5 < sum(1 for _ in read_video(tmp_path / "a.ts")) < N
    assert "may break off: its last packet is a part of one" in caplog.text


@pytest.mark.parametrize("kind", ["mkv", "mp4", "webm", "avi"])
@pytest.mark.parametrize("share", [0.7, 0.85])
def test_a_film_that_is_cut_off_is_refused_or_said(kind, share, films, tmp_path, caplog):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(films[kind][: int(share * len(films[kind]))])
    with pytest.raises(ValueError, match=r"breaks off: it announces .*40 frames|cannot be decod"):
        list(read_video(path))
    path.write_bytes(films[kind][: int(0.85 * len(films[kind]))])
    with caplog.at_level(logging.WARNING):
        number = sum(1 for _ in read_video(path, allow_broken=True))
    assert 0 < number < N and "it is taken as it is" in caplog.text


def test_a_hole_in_the_middle_is_refused(films, tmp_path):
    data = bytearray(films["mkv"])
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    (tmp_path / "a.mkv").write_bytes(data)
    with pytest.raises(ValueError, match=r"breaks off|damaged frames|cannot be decoded"):
        list(read_video(tmp_path / "a.mkv"))


def test_a_frame_that_is_missing_at_the_end_is_said(films, tmp_path, caplog):
    path = tmp_path / "a.mkv"
    for size in range(len(films["mkv"]) - 1, 0, -50):
        path.write_bytes(films["mkv"][:size])
        if 0 < N - sum(1 for _ in read_video(path, allow_broken=True)) <= 2:
            break
    caplog.clear()
    assert N - sum(1 for _ in read_video(path)) in (1, 2)
    assert "may break off: it announces 4.00 seconds" in caplog.text


def matrix(a: int, b: int, c: int, d: int) -> bytes:
    return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)


EIGHT = [
    *[(a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)],
    *[(0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)],
]


@pytest.mark.parametrize("form", EIGHT)
def test_all_eight_ways_up(form, tmp_path):
    """The picture's corners come to where the matrix sends them."""
    a, b, c, d = form
    size = 32, 64
    frame = np.zeros((*size, 3), np.uint8)
    frame[:12, :12] = 255  # the top left corner
    frame[-12:, :12, 0] = 255  # the bottom left one, red
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = matrix(a, b, c, d)
    (tmp_path / "a.mp4").write_bytes(content)
    (shown,) = read_video(tmp_path / "a.mp4")
    assert shown.shape[:2] == (size if a else size[::-1])

    def seen(x: int, y: int) -> np.ndarray:
        """The colour at a corner of the stored picture, -1 or 1 from its middle, as shown."""
        across, down = a * x + c * y, b * x + d * y
        height, width = shown.shape[:2]
        return shown[5 if down < 0 else height - 6, 5 if across < 0 else width - 6].astype(int)

    assert seen(-1, -1).min() > 180
    assert seen(-1, 1)[0] > 150 > 100 > seen(-1, 1)[2]
    assert max(seen(1, -1).max(), seen(1, 1).max()) < 80


def test_a_matrix_of_nothing_is_ignored():
    picture = np.zeros((2, 3, 3), np.uint8)
    assert turned(picture, bytes(36)) is picture and turned(picture, None) is picture


def test_the_film_is_taken_and_not_a_smaller_or_single_picture(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as out:
        streams = []
        for width, height in ((32, 32), (64, 48)):
            stream = out.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        for t in range(5):
            for stream in streams:
                frame = np.full((stream.height, stream.width, 3), 9 * t, np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        for stream in streams:
            out.mux(stream.encode(None))
    assert [frame.shape for frame in read_video(path)] == [(48, 64, 3)] * 5
    with av.open(str(path)) as container:
        assert film_stream(container).index == 1
    source = open_video(path)
    assert source.fps() == 10 and abs(source.num_frames() - 5) <= 1


def test_a_playlist_in_the_place_of_a_video_opens_nothing_else(films, tmp_path):
    (tmp_path / "film.mkv").write_bytes(films["mkv"])
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'film.mkv'}'\n")
    (tmp_path / "net.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    for name in ("list.mp4", "net.mp4"):
        with pytest.raises(ValueError, match="cannot be decoded"):
            list(read_video(tmp_path / name))


def test_a_frame_of_absurd_size_is_refused(films, tmp_path, monkeypatch):
    (tmp_path / "a.mkv").write_bytes(films["mkv"])
    monkeypatch.setenv("SEQFORMER_MAX_PIXELS", "1000")
    with pytest.raises(ValueError, match="48 x 64 pixels, more than 1000"):
        list(read_video(tmp_path / "a.mkv"))


def picture(path, suffix="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), 9, np.uint8)).save(buffer, suffix)
    path.write_bytes(buffer.getvalue())


def test_folders_as_people_have_them(films, tmp_path, caplog):
    for name in ("film.mp4", "more/film.m2ts", "more/deep/FILM.WMV"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(films["mkv"])
    for name in ("thumbnail.jpg", "v1/img1/0.jpg", "v1/img1/1.jfif", "v2/0.tif", "v2/1.png"):
        picture(tmp_path / name, "TIFF" if name.endswith("tif") else "JPEG")
    for name in ("notes.txt", "v1/gt/gt.txt", ".hidden/x.jpg", "v1/img1/._0.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "v1" / "loop").symlink_to(tmp_path)
    with caplog.at_level(logging.WARNING):
        actual = {source.name: len(source.paths) for source in find_videos(tmp_path)}
    assert actual == {"film_1": 1, "FILM_2": 1, "film_3": 1, "v1_img1": 2, "v2": 2}
    (message,) = caplog.messages
    assert message.startswith("3 files in") and "thumbnail.jpg" in message


def test_pictures_beside_videos_are_a_video_unless_they_are_covers(films, tmp_path):
    for name in ("a.mp4", "b.mkv"):
        (tmp_path / name).write_bytes(films["mkv"])
    for name in ("a.jpg", "cover.png"):
        picture(tmp_path / name)
    assert [source.is_video_file for source in find_videos(tmp_path)] == [True, True]
    for t in range(3):
        picture(tmp_path / f"{t}.jpg")
    assert sorted(source.is_video_file for source in find_videos(tmp_path)) == [False, True, True]


@pytest.mark.parametrize(
    "names",
    [
        ["a.mp4", "a.mkv", "a_1.mp4", "A.webm", "a_2.avi"],
        ["é.mp4", "e\u0301.mkv", "É.avi"],
        ["x" * 140 + "1.mp4", "x" * 140 + "2.mp4"],
        [" .mp4", "_.mkv", "run.mp4.mp4", "run.mp4.mkv"],
        ["CON.mp4", "con_.mkv", "nul.avi", "aux.take2.mp4", "Lpt9.mp4"],
    ],
)
def test_no_two_videos_have_one_name_on_any_disk(names, films, tmp_path):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    actual = [source.name for source in find_videos(tmp_path)]
    import unicodedata

    assert len({unicodedata.normalize("NFC", name).casefold() for name in actual}) == len(names)
    assert all(name.strip(". ") and len(name) < 140 for name in actual)
    assert not any(re.fullmatch(r"(con|nul|aux|lpt\d)(\..*)?", n.casefold()) for n in actual)
