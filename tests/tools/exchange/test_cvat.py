"""CVAT's exports: what every quirk of theirs becomes, and mistakes as one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from seqformer.cli.main import main
from seqformer.tools.exchange.convert import convert_cvat
from seqformer.tools.exchange.cvat_read import CvatOptions
from tests.tools.exchange.cvat_files import (
    HEIGHT,
    WIDTH,
    document,
    picture,
    points_attribute,
    rle_attributes,
    task_xml,
    track,
    tracked,
    zipped,
)

SQUARE = [(5, 5), (15, 5), (15, 15), (5, 15)]
FRAMES = {f"images/frame_{n:06d}.PNG": picture(n) for n in range(4)}


def box_mask(left, top, right, bottom):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


def convert(tmp_path, body, meta=None, images=FRAMES, options=None, name="export.zip"):
    """The annotation file of an export."""
    data = document(meta or task_xml(["car", "чаша & <cup>"]), body)
    source = zipped(tmp_path / name, {"annotations.xml": data, **images})
    path = convert_cvat(source, tmp_path / "data", options=options)
    return json.loads(path.read_text())


def masks_of(entry):
    return [s and coco_mask.decode(s).astype(bool) for s in entry["segmentations"]]


def test_a_track_of_polygons_with_outside_and_occluded(tmp_path):
    square = points_attribute(SQUARE)
    shapes = [
        tracked("polygon", 0, square),
        tracked("polygon", 1, square, keyframe=0, occluded=1),
        tracked("polygon", 2, square, outside=1),
    ]
    content = convert(tmp_path, track("чаша & <cup>", shapes))
    assert [c["name"] for c in content["categories"]] == ["car", "чаша & <cup>"]
    video = content["videos"][0]
    assert (video["height"], video["width"], video["length"]) == (HEIGHT, WIDTH, 4)
    assert video["file_names"][0] == "my_film/00000.png"
    assert (tmp_path / "data/JPEGImages" / video["file_names"][3]).read_bytes() == picture(3)
    (entry,) = content["annotations"]
    assert entry["category_id"] == 2 and entry["occluded"] == [0, 1, 0, 0]
    masks = masks_of(entry)
    assert masks[2] is None and masks[3] is None
    assert (masks[0] == box_mask(5, 5, 15, 15)).all() and (masks[0] == masks[1]).all()


def test_frames_that_only_lie_between_keyframes_are_moved_evenly(tmp_path, caplog):
    moved = [(x + 9, y) for x, y in SQUARE]
    shapes = [
        tracked("polygon", 0, points_attribute(SQUARE)),
        tracked("polygon", 3, points_attribute(moved)),
    ]
    (entry,) = convert(tmp_path, track("car", shapes))["annotations"]
    for t, mask in enumerate(masks_of(entry)):
        assert (mask == box_mask(5 + 3 * t, 5, 15 + 3 * t, 15)).all()
    assert "2 shapes between two keyframes" in caplog.text


def test_each_mask_is_a_track_and_a_group_joins_them(tmp_path, caplog):
    """CVAT for video writes a mask as a track of one frame, and the next frame as outside."""
    rng = np.random.default_rng(0)
    masks = [rng.random((HEIGHT, WIDTH)) < 0.3 for _ in range(4)]
    body = ""
    for n, mask in enumerate(masks):
        shapes = [tracked("mask", n, rle_attributes(mask))]
        if n + 1 < 3:
            shapes.append(tracked("mask", n + 1, rle_attributes(mask), outside=1))
        body += track("car", shapes, group=5, number=n)
    content = convert(tmp_path, body)
    (entry,) = content["annotations"]
    assert all((a == b).all() for a, b in zip(masks_of(entry), masks, strict=True))
    (tmp_path / "alone").mkdir()
    alone = convert(tmp_path / "alone", body, options=CvatOptions(join_groups=False))
    assert len(alone["annotations"]) == 4
    assert "4 shapes have neither a group nor" in caplog.text


def test_parts_of_an_object_and_a_hole(tmp_path):
    """Two polygons of one group are one object; a keyhole polygon keeps its hole (even-odd)."""
    outer = [(2, 2), (14, 2), (14, 14), (2, 14), (2, 2)]
    inner = [(5, 5), (5, 11), (11, 11), (11, 5), (5, 5)]
    keyhole = [*outer, *inner]
    body = track("car", [tracked("polygon", 0, points_attribute(keyhole))], group=1)
    other = [(20, 2), (26, 2), (26, 8), (20, 8)]
    body += track("car", [tracked("polygon", 0, points_attribute(other))], group=1, number=1)
    (entry,) = convert(tmp_path, body)["annotations"]
    mask = masks_of(entry)[0]
    expected = box_mask(2, 2, 14, 14) & ~box_mask(5, 5, 11, 11) | box_mask(20, 2, 26, 8)
    assert (mask == expected).all()


def test_z_order_cuts_what_is_covered_only_when_asked(tmp_path):
    below = tracked("polygon", 0, points_attribute(SQUARE), z_order=1)
    above = tracked(
        "polygon", 0, points_attribute([(10, 5), (20, 5), (20, 15), (10, 15)]), z_order=2
    )
    body = track("car", [above]) + track("car", [below], number=1)
    areas = {}
    for overlap, options in (("keep", CvatOptions()), ("cut", CvatOptions(cut_covered=True))):
        folder = tmp_path / overlap
        folder.mkdir()
        entries = convert(folder, body, options=options)["annotations"]
        areas[overlap] = sorted(entry["areas"][0] for entry in entries)
    assert areas == {"keep": [100, 100], "cut": [50, 100]}


def test_boxes_ellipses_and_what_has_no_area(tmp_path, caplog):
    box = 'xtl="2.00" ytl="3.00" xbr="8.00" ybr="9.00"'
    ellipse = 'cx="15.00" cy="10.00" rx="8.00" ry="4.00" rotation="90.00"'
    body = track("car", [tracked("box", 0, box)])
    body += track("car", [tracked("ellipse", 0, ellipse)], number=1)
    body += track("car", [tracked("points", 0, points_attribute(SQUARE))], number=2)
    body += (
        '<track id="3" label="car" source="manual"><skeleton frame="0" keyframe="1" z_order="0">'
        '<points label="nose" keyframe="1" outside="0" occluded="0" points="1.00,2.00"></points>'
        "</skeleton></track>"
    )
    (entry,) = convert(tmp_path, body)["annotations"]
    mask = masks_of(entry)[0]
    assert mask[3:17, 14].all() and not mask[:, 5].any()  # turned: it stands upright
    for words in ("1 boxes have no mask", "1 points", "1 skeletons"):
        assert words in caplog.text
    (tmp_path / "boxes").mkdir()
    content = convert(tmp_path / "boxes", body, options=CvatOptions(take_boxes=True))
    assert (masks_of(content["annotations"][0])[0] == box_mask(2, 3, 8, 9)).all()


def test_a_task_of_every_fifth_frame(tmp_path):
    """CVAT numbers the frames of the video, not of the task."""
    meta = task_xml(["car"], start=10, stop=20, step=5)
    square = points_attribute(SQUARE)
    shapes = [tracked("polygon", 10, square), tracked("polygon", 20, square)]
    images = {f"images/frame_{n:06d}.PNG": picture(n) for n in (10, 15, 20)}
    content = convert(tmp_path, track("car", shapes), meta, images)
    assert content["videos"][0]["source"]["numbers"] == [10, 15, 20]
    assert all(content["annotations"][0]["segmentations"])


def images_form(names, shapes_of=None, start=0):
    body = ""
    for n, name in enumerate(names, start=start):
        shapes = "".join((shapes_of or {}).get(n, []))
        body += f'<image id="{n}" name="{name}" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
    return body


def test_an_export_for_images_with_folders_as_videos(tmp_path):
    mask = box_mask(1, 2, 6, 9)
    drawn = (
        f'<mask label="car" source="semi-auto" occluded="1" {rle_attributes(mask)} z_order="0" '
        'group_id="3"></mask>'
    )
    by_attribute = (
        f'<polygon label="car" source="manual" occluded="0" {points_attribute(SQUARE)} '
        'z_order="0"><attribute name="track_id">9</attribute>'
        '<attribute name="iscrowd">true</attribute></polygon>'
    )
    names = ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
    shapes = {0: [drawn], 1: [drawn, by_attribute], 3: [by_attribute]}
    images = {f"images/{name}": picture(n) for n, name in enumerate(names)}
    content = convert(tmp_path, images_form(names, shapes), task_xml(["car"], size=None), images)
    assert [video["source"]["name"] for video in content["videos"]] == ["a", "b"]
    kept = [
        (e["video_id"], e["iscrowd"], [bool(s) for s in e["segmentations"]])
        for e in content["annotations"]
    ]
    assert kept == [(1, 0, [True, True]), (1, 1, [False, True]), (2, 1, [False, True])]
    assert content["annotations"][0]["occluded"] == [1, 1]


def test_a_sequence_of_images_exported_for_video(tmp_path):
    """Such a file has neither the names of the frames nor their size: its pictures tell."""
    images = {f"images/photo {n}.jpg": picture(n, kind="JPEG") for n in (1, 2, 10)}
    shapes = [tracked("polygon", 2, points_attribute(SQUARE))]
    meta = task_xml(["car"], stop=2, size=None, source="")
    content = convert(tmp_path, track("car", shapes), meta, images)
    assert content["videos"][0]["height"] == HEIGHT
    assert content["videos"][0]["source"]["names"][2] == "photo 10.jpg"
    assert [bool(s) for s in content["annotations"][0]["segmentations"]] == [False, False, True]


def test_a_task_without_shapes_gives_its_frames(tmp_path):
    content = convert(tmp_path, "")
    assert content["videos"][0]["length"] == 4 and content["annotations"] == []
    assert [category["name"] for category in content["categories"]] == ["car", "чаша & <cup>"]


def test_a_film_gives_the_frames(tmp_path):
    av = pytest.importorskip("av")
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for n in range(4):
            pixels = np.full((HEIGHT, WIDTH, 3), 60 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    xml = tmp_path / "annotations.xml"
    square = points_attribute(SQUARE)
    xml.write_bytes(
        document(task_xml(["car"], start=1), track("car", [tracked("polygon", 1, square)]))
    )
    command = ["data", "convert", "cvat", str(xml), str(tmp_path / "data")]
    assert main([*command, "--frames", str(film)]) == 0
    from PIL import Image

    frames = sorted((tmp_path / "data/JPEGImages/my_film").iterdir())
    assert [round(np.array(Image.open(f)).mean(), -1) for f in frames] == [60, 120, 180]


BOMB = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]>
<annotations>&y;</annotations>"""
GOOD = document(task_xml(["car"]), images_form([]))
ONE = points_attribute(SQUARE)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (BOMB, "declares a document type"),
        (b"<annotations>", "no complete XML"),
        (GOOD.replace(b"utf-8", b"utf-9"), "unknown encoding"),
        (b"<root/>", "is not an export of CVAT"),
        (document("", ""), "no frames and no tracks"),
        (
            document(task_xml(["a"]), track("a", [tracked("polygon", 0, 'points="1,2;x"')])),
            "points",
        ),
        (
            document(task_xml(["a"]), track("a", [tracked("polygon", 0, 'points="1,2;3,4"')])),
            "fewer than three points",
        ),
        (
            document(
                task_xml(["a"]),
                track(
                    "a",
                    [tracked("mask", 0, 'rle="1, 9" left="0" top="0" width="2" height="2"')],
                ),
            ),
            "add up to 10 pixels",
        ),
        (
            document(
                task_xml(["a"]),
                track(
                    "a",
                    [tracked("mask", 0, 'rle="1" left="0" top="0" width="99999" height="99999"')],
                ),
            ),
            "99999 x 99999",
        ),
        (
            document(
                task_xml(["a"]), track("a", [tracked("polygon", 0, 'points="1e9,2;3,4;5,6"')])
            ),
            "no pixel position",
        ),
        (
            document(task_xml(["a"], size=None), track("a", [tracked("polygon", 0, ONE)])),
            "how large",
        ),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path, capsys, data, words):
    source = zipped(tmp_path / "e.zip", {"annotations.xml": data})
    assert main(["data", "convert", "cvat", str(source), str(tmp_path / "data")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("seqformer data convert cvat: error: ".replace(" cvat", ""))
    assert words in error and str(source) in error
    assert not (tmp_path / "data/instances.json").exists()


def test_bad_archives_are_refused_in_one_sentence(tmp_path, capsys, monkeypatch):
    broken = tmp_path / "broken.zip"
    whole = zipped(tmp_path / "whole.zip", {"annotations.xml": GOOD}).read_bytes()
    broken.write_bytes(whole.replace(GOOD[:40], b"x" * 40))
    outside = zipped(tmp_path / "out.zip", {"../annotations.xml": GOOD})
    empty = zipped(tmp_path / "empty.zip", {"readme.txt": b""})
    for source, words in (
        (broken, "cannot be unpacked"),
        (outside, "leads out of the archive"),
        (empty, "holds no annotations.xml"),
        (tmp_path / "none.zip", "does not exist"),
    ):
        assert main(["data", "convert", "cvat", str(source), str(tmp_path / "data")]) == 2
        assert words in capsys.readouterr().err
    big = zipped(tmp_path / "big.zip", {"annotations.xml": GOOD + b" " * 2**21})
    monkeypatch.setenv("SEQFORMER_MAX_UNPACKED_MIB", "1")
    with zipfile_deflated(tmp_path / "bomb.zip", big):
        assert main(["data", "convert", "cvat", str(tmp_path / "bomb.zip"), str(tmp_path)]) == 2
    assert "would unpack to" in capsys.readouterr().err


def zipfile_deflated(path, source):
    import contextlib
    import zipfile

    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return contextlib.nullcontext()
