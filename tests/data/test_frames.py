"""JPEGs that OpenCV decodes have Pillow's pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from seqformer.data.frames import read_frame


def picture(height: int, width: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(64, 80), (61, 83), (7, 5), (240, 427)])
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 40},
        {"quality": 75, "subsampling": 0},
        {"quality": 95, "subsampling": 1},
        {"quality": 80, "progressive": True, "optimize": True},
    ],
)
def test_same_pixels(tmp_path, size, options):
    path = tmp_path / "a.jpg"
    picture(*size).save(path, "JPEG", **options)
    np.testing.assert_array_equal(read_frame(path), np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_kinds_of_jpeg(tmp_path, mode):
    path = tmp_path / "a.jpg"
    picture(50, 70).convert(mode).save(path, "JPEG")
    np.testing.assert_array_equal(read_frame(path), np.asarray(Image.open(path).convert("RGB")))


def test_rotation_in_exif_is_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(50, 70).save(tmp_path / "a.jpg", exif=exif)
    assert read_frame(tmp_path / "a.jpg").shape == (50, 70, 3)


def test_bytes_after_the_end_do_not_matter(tmp_path):
    buffer = io.BytesIO()
    picture(50, 70).save(buffer, "JPEG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue() + bytes(200) + b"tail")
    assert read_frame(tmp_path / "a.jpg").shape == (50, 70, 3)
