"""Annotation files, masks and frames: what is read, and every mistake in words."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from seqformer.annotations.packed_masks import decode_segmentation
from seqformer.annotations.ytvis import load_annotation_file
from seqformer.data.class_map import build_class_map
from seqformer.data.frames import read_frame, read_video_frame


def test_reads_videos_instances_and_categories(small):
    annotations = load_annotation_file(small.annotations, require_annotations=True)
    assert [(v.id, v.length, v.height, v.width) for v in annotations.videos] == [
        (11, 6, 48, 64),
        (5, 6, 48, 64),
    ]
    assert annotations.categories == [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}]
    first, second = annotations.videos[0].instances
    assert (first.category_id, second.category_id) == (7, 3)
    assert [i.is_crowd for i in annotations.videos[1].instances] == [False, False, True]
    assert first.boxes_xyxy[1].tolist() == [7, 7, 27, 23]
    assert second.boxes_xyxy[2].tolist() == [0, 0, 0, 0]
    assert second.segmentations[2] is None


def test_boxes_are_clipped_to_the_frame(small):
    small.content["annotations"][0]["bboxes"][0] = [-5, 40, 30, 30]
    video = load_annotation_file(small.save()).videos[0]
    assert video.instances[0].boxes_xyxy[0].tolist() == [0, 40, 25, 48]


@pytest.mark.parametrize("absent", [None, [], {}, ""])
def test_absent_in_any_spelling(small, absent):
    annotation = small.content["annotations"][0]
    annotation["segmentations"][0] = absent
    annotation["bboxes"][0] = absent or None
    instance = load_annotation_file(small.save()).videos[0].instances[0]
    assert instance.segmentations[0] is None
    assert not instance.boxes_xyxy[0].any()
    assert not decode_segmentation(None, 4, 5).any()


def test_polygon_compressed_and_plain_runs_mean_the_same(small):
    video = load_annotation_file(small.annotations).videos[0]
    polygon = decode_segmentation(video.instances[0].segmentations[0], 48, 64)
    runs = decode_segmentation(video.instances[0].segmentations[1], 48, 64)
    plain = decode_segmentation(video.instances[1].segmentations[0], 48, 64)
    for mask, (x0, y0, x1, y1) in [
        (polygon, (4, 6, 24, 22)),
        (runs, (7, 7, 27, 23)),
        (plain, (30, 20, 44, 30)),
    ]:
        expected = np.zeros((48, 64), bool)
        expected[y0:y1, x0:x1] = True
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0, 0.1, 1])
)
def test_compressed_runs_equal_pycocotools(height, width, seed, share):
    rng = np.random.default_rng(seed)
    mask = (rng.random((height, width)) < rng.random() * share).astype(np.uint8)
    counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    np.testing.assert_array_equal(decode_segmentation(counts, height, width), mask.astype(bool))


def test_long_runs_decode():
    mask = np.zeros((1080, 1920), np.uint8)
    mask[7, 1900] = 1
    counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    np.testing.assert_array_equal(decode_segmentation(counts, 1080, 1920), mask.astype(bool))


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ("0a", "middle of a number"),
        ("\x7f0", "foreign character"),
        ("é0", "foreign character"),
        ("oooooooo0", "absurd size"),
        ("52", "add up to 7 pixels"),
        ("52K5", "negative"),
    ],
)
def test_broken_runs_are_refused(counts, problem):
    with pytest.raises(ValueError, match=problem):
        decode_segmentation(counts, 3, 4)


def test_class_maps_of_a_file_with_gaps(small):
    annotations = load_annotation_file(small.annotations)
    from_data = build_class_map(annotations, "from_data")
    assert from_data.ids == (3, 7) and from_data.names == ("three", "seven")
    published = build_class_map(annotations, "published")
    assert published.num_classes == 42 and published.index_of[7] == 7
    annotations.categories.append({"id": 1000, "name": "far out"})
    with pytest.raises(ValueError, match="from_data"):
        build_class_map(annotations, "published")


def test_public_validation_file_has_no_annotations(small, one_line):
    del small.content["annotations"]
    annotations = load_annotation_file(small.save())
    assert not any(v.instances for v in annotations.videos)
    with pytest.raises(ValueError) as error:
        load_annotation_file(small.annotations, require_annotations=True)
    assert "no annotations" in one_line(error.value)


def _set(*path):
    """A change of the content: the value `path[-1]` at the keys before it."""

    def change(content):
        *keys, last, value = path
        for key in keys:
            content = content[key]
        if value is ...:
            del content[last]
        else:
            content[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_set("videos", ...), "has no videos"),
        (_set("categories", ...), "has no categories"),
        (_set("categories", []), "has no categories"),
        (_set("categories", 0, "id", 3), "categories entry 1 has the id 3 of an earlier one"),
        (_set("videos", 0, "file_names", ...), "has no 'file_names'"),
        (_set("videos", 0, "file_names", []), r"\(id 11\) has no frames"),
        (_set("videos", 0, "file_names", "a.jpg"), "not a list of names"),
        (_set("videos", 0, "height", 0), "must be positive"),
        (_set("videos", 0, "height", "48"), "must be positive integers"),
        (_set("videos", 1, "id", 11), "videos entry 1 has the id 11 of an earlier one"),
        (_set("annotations", {"a": 1}), 'needs a list "annotations", got an object'),
        (_set("annotations", 0, 3), "annotations entry 0 is 3; needed is an object"),
        (_set("annotations", 0, "category_id", ...), 'annotations entry 0 has no "category_id"'),
        (_set("annotations", 0, "category_id", -4), "category_id is -4; needed is an integer"),
        (_set("annotations", 0, "video_id", "11"), "video_id is '11'; needed is an integer"),
        (_set("annotations", 0, "iscrowd", "no"), "iscrowd is 'no'; needed is 0 or 1"),
        (_set("annotations", 0, "id", 2**64), "entry 0: id is 1.8446744073709552e"),
        (_set("annotations", 0, "segmentations", [None]), "1 segmentations but .* 6 frames"),
        (_set("annotations", 0, "segmentations", [None] * 7), "7 segmentations but .* 6 frames"),
        (_set("annotations", 0, "segmentations", 0, [4, 6, 24, 6, 24, 22]), "not of polygons"),
        (_set("annotations", 0, "segmentations", 0, [[4, 6, 24, 6]]), "not of polygons"),
        (_set("annotations", 0, "segmentations", 0, [[1e300] * 6]), "not a pixel position"),
        (_set("annotations", 0, "segmentations", 0, 3), "frame 0 is 3; needed is null or an RLE"),
        (
            _set("annotations", 0, "segmentations", 1, "size", [64, 48]),
            r"frame 1 has size \[64, 48\] but its video has \[48, 64\]",
        ),
        (
            _set("annotations", 0, "segmentations", 1, "counts", 5),
            "frame 1 has counts 5; needed is the text",
        ),
        (
            _set("annotations", 0, "segmentations", 1, "counts", [1.5]),
            "frame 1 has run lengths that are not int",
        ),
    ],
)
def test_mistakes_in_the_file_are_named(small, change, expected, one_line):
    change(small.content)
    with pytest.raises(ValueError, match=expected) as error:
        load_annotation_file(small.save())
    assert str(small.annotations) in one_line(error.value)


def test_files_that_are_no_annotation_files(tmp_path, one_line):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_annotation_file(path)
    path.write_text('{"videos": [')
    with pytest.raises(ValueError, match="not complete JSON") as error:
        load_annotation_file(path)
    one_line(error.value)
    path.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match="not complete JSON"):
        load_annotation_file(path)
    path.write_text(json.dumps([{"video_id": 1, "score": 0.5}]))
    with pytest.raises(ValueError, match="results file"):
        load_annotation_file(path)


def test_frames_are_rgb_whatever_the_file_holds(tmp_path):
    pixels = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(pixels[..., 0]).convert("P").save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_frame(tmp_path / "rgb.png"), pixels)
    for name in ("grey.png", "palette.png"):
        frame = read_frame(tmp_path / name)
        assert frame.dtype == np.uint8 and frame.flags.writeable
        np.testing.assert_array_equal(frame, np.repeat(pixels[..., :1], 3, axis=-1))


def test_broken_frames_are_refused(tmp_path, one_line):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    data = buffer.getvalue()
    path = tmp_path / "f.jpg"
    cases = {
        "empty": b"",
        "text": b"<html>not found</html>",
        "header only": data[:300],
        "half": data[: len(data) // 2],
        "last bytes missing": data[:-10],
        "end lost to zeros": data[:-700] + bytes(700),
    }
    for name, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            read_frame(path)
        assert str(path) in one_line(error.value), name
    path.write_bytes(data)
    assert read_frame(path).shape == (120, 160, 3)
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        read_frame(tmp_path / "missing.jpg")


def test_frame_of_another_size_is_refused(small, one_line):
    small.content["videos"][0] |= {"height": 64, "width": 48}
    small.content["annotations"] = []
    video = load_annotation_file(small.save()).videos[0]
    with pytest.raises(ValueError, match=r"48 x 64 pixels but .* 64 x 48") as error:
        read_video_frame(small.images, video, 0)
    one_line(error.value)
