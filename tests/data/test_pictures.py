"""Pictures as cameras and programs write them: depth, orientation, and what follows their end."""

from __future__ import annotations

import io
import logging
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from seqformer.data.frames import read_frame
from seqformer.data.pictures import stored_size, turn_upright
from seqformer.data.video_sources import open_video
from seqformer.inference.frame_loader import _units

RAMP = np.linspace(0, 1, 12 * 16).reshape(12, 16)
LETTERBOX = np.random.default_rng(0).integers(1, 255, (48, 64, 3), dtype=np.uint8)
LETTERBOX[:6] = LETTERBOX[-6:] = 0


@pytest.mark.parametrize(
    ("largest", "dtype", "name"),
    [
        (65535, np.uint16, "a.png"),
        (4095, np.uint16, "a.png"),
        (1023, np.uint16, "a.tif"),
        (255, np.uint16, "a.png"),
        (2**31 - 1, np.int32, "a.tif"),
        (100_000, np.int32, "a.tif"),
        (1.0, np.float32, "a.tif"),
        (255.0, np.float32, "a.tif"),
        (65535.0, np.float32, "a.tif"),
    ],
)
def test_numbers_of_any_depth_fill_the_range_and_are_never_black(largest, dtype, name, tmp_path):
    Image.fromarray((RAMP * largest).astype(dtype)).save(tmp_path / name)
    pixels = read_frame(tmp_path / name)
    assert pixels.shape == (12, 16, 3) and pixels.dtype == np.uint8
    assert (np.diff(pixels[..., 0].ravel().astype(int)) >= 0).all()
    assert pixels.max() >= 180 and pixels.min() == 0  # 100,000 is no power of two


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_numbers_that_are_no_brightness_are_refused(bad, tmp_path):
    values = RAMP.astype(np.float32)
    values[3, 3] = bad
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif cannot be decoded"):
        read_frame(tmp_path / "a.tif")


@pytest.mark.parametrize("colours", [2, 16, 256])
def test_palettes_are_looked_up(colours, tmp_path):
    image = Image.fromarray(LETTERBOX).quantize(colours)
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_frame(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.ppm", "a.png", "a.tga"])
def test_pictures_that_end_in_zeros_are_complete(name, tmp_path):
    Image.fromarray(LETTERBOX).save(tmp_path / name)
    np.testing.assert_array_equal(read_frame(tmp_path / name), LETTERBOX)


@pytest.mark.parametrize("after", [bytes(512), bytes(100) + b"tail", b"x" * 5000, b"\xff\xd8" * 99])
@pytest.mark.parametrize("progressive", [False, True])
def test_anything_may_follow_the_end_of_a_jpeg(after, progressive, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(LETTERBOX).save(buffer, "JPEG", progressive=progressive)
    (tmp_path / "whole.jpg").write_bytes(buffer.getvalue())
    (tmp_path / "longer.jpg").write_bytes(buffer.getvalue() + after)
    expected = read_frame(tmp_path / "whole.jpg")
    np.testing.assert_array_equal(read_frame(tmp_path / "longer.jpg"), expected)


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("thumbnail", [False, True])
def test_a_jpeg_whose_end_became_zeros_is_refused(kept, thumbnail, tmp_path):
    """Also where a small picture inside it has an end of its own."""
    buffer, small = io.BytesIO(), io.BytesIO()
    Image.fromarray(LETTERBOX[:8, :8]).save(small, "JPEG")
    comment = small.getvalue()[:60] + b"\xff\xd9" if thumbnail else b""
    Image.fromarray(LETTERBOX).save(buffer, "JPEG", comment=comment)
    data = buffer.getvalue()
    cut = int(kept * len(data))
    (tmp_path / "a.jpg").write_bytes(data[:cut] + bytes(len(data) - cut + 100))
    with pytest.raises(ValueError, match=r"a\.jpg"):
        read_frame(tmp_path / "a.jpg")


@pytest.mark.parametrize("number", range(2, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_an_orientation_is_followed_if_asked_and_else_said_once(number, name, tmp_path, caplog):
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(LETTERBOX).save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as image:
        stored, shown = np.asarray(image), np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_frame(tmp_path / name, upright=True), shown)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            np.testing.assert_array_equal(read_frame(tmp_path / name), stored)
    (message,) = caplog.messages
    assert f"EXIF orientation {number}" in message and "--upright" in message


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("largest", [255, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_are_never_black_either(name, largest, channels, tmp_path):
    values = np.zeros((12, 16, channels), np.uint16)
    values[..., 0] = RAMP * largest
    values[..., 2] = largest // 2
    values[..., 3:] = 65535
    cv2.imwrite(str(tmp_path / name), values[..., [2, 1, 0, 3][:channels]])  # blue comes first
    pixels = read_frame(tmp_path / name)
    assert pixels.shape == (12, 16, 3) and pixels.dtype == np.uint8
    assert pixels[..., 0].max() == 255 and pixels[..., 1].max() == 0
    assert set(pixels[..., 2].ravel()) == {127}


def tiff_of_16_bits(values: np.ndarray, number: int) -> bytes:
    """A TIFF file with RGB [H, W, 3] uint16 and an orientation, which no library here writes."""
    height, width, _ = values.shape
    pixels, entries = values.astype("<u2").tobytes(), 10
    behind = 8 + 2 + 12 * entries + 4
    short, long = 3, 4
    tags = (
        *((256, short, 1, width), (257, short, 1, height), (258, short, 3, behind)),
        *((259, short, 1, 1), (262, short, 1, 2), (273, long, 1, behind + 6)),
        *((274, short, 1, number), (277, short, 1, 3), (278, short, 1, height)),
        (279, long, 1, len(pixels)),
    )
    directory = struct.pack("<H", entries) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + struct.pack("<3H", 16, 16, 16) + pixels


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("kind", ["colours", "deep colours", "grey", "deep grey", "real"])
def test_a_tiff_has_the_same_two_ways_up(number, kind, tmp_path):
    """Pillow turns it by itself, whether asked or not."""
    path, exif = tmp_path / "a.tif", Image.Exif()
    exif[0x0112] = number
    grey = LETTERBOX[..., 0]
    if kind == "deep colours":
        path.write_bytes(tiff_of_16_bits(LETTERBOX.astype(np.uint16) * 257, number))
    else:
        values = {
            "colours": LETTERBOX,
            "grey": grey,
            "deep grey": grey.astype(np.uint16) * 257,
            "real": grey.astype(np.float32) / 255,
        }[kind]
        Image.fromarray(values).save(path, exif=exif)
    stored = LETTERBOX if "colours" in kind else grey[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(read_frame(path), stored)
    np.testing.assert_array_equal(read_frame(path, upright=True), turn_upright(stored, number))
    with Image.open(path) as image:
        assert stored_size(image) == stored.shape[:2]


def test_real_numbers_between_the_usual_ranges_are_never_black(tmp_path):
    for largest in (1.2, 5.5, 40.25, 254.5):
        Image.fromarray((RAMP * largest).astype(np.float32)).save(tmp_path / "a.tif")
        pixels = read_frame(tmp_path / "a.tif")
        assert pixels.max() >= 100 and pixels.min() == 0


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_the_frames_of_a_video_have_one_scale(kind, tmp_path):
    """The same thing is as bright in a frame whose brightest point is darker."""
    paths = [tmp_path / f"{index}.tif" for index in range(4)]
    for path, brightest in zip(paths, (900, 1100, 4000, 300), strict=True):
        values = np.full((8, 8), 200)
        values[0, 0] = brightest
        Image.fromarray((values / (1 if kind is np.uint16 else 4000)).astype(kind)).save(path)
    paths.insert(2, tmp_path / "broken.tif")
    paths[2].write_bytes(b"no picture")
    shown = [read_frame(p, frames=lambda: paths)[5, 5, 0] for p in paths if p != paths[2]]
    assert len(set(shown)) == 1 and shown[0] in (12, 13)
    alone = read_frame(paths[-1])[5, 5, 0]
    assert (alone > 40) == (kind is np.uint16)


def test_frames_that_are_decoded_in_parts_have_the_scale_of_all(tmp_path):
    for index in range(40):
        values = np.full((8, 8), 200, np.uint16)
        values[0, 0] = 4000 if index == 39 else 300
        Image.fromarray(values).save(tmp_path / f"{index}.png")
    units = [unit.source for unit in _units([open_video(tmp_path)])]
    shown = {int(frame[5, 5, 0]) for unit in units for frame in unit.frames()}
    assert len(units) > 1 and shown == {200 // 16}
