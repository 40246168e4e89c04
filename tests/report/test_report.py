"""What is in the page, without a browser."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from seqformer.cli.eval import main
from seqformer.evaluation.track_iou import build_tracks
from seqformer.report import ReportOptions, write_report
from seqformer.report.build import _choose
from seqformer.report.masks import MaskStore, grid_of
from seqformer.report.pictures import encode_frames
from tests.evaluation.ytvis_problems import rle

FAST = ReportOptions(resamples=20)


def embedded(page, name: str):
    """A JSON block of the page."""
    actual = re.search(
        rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text(), re.S
    )
    return json.loads(actual[1])


def test_the_page_is_complete_in_itself(dataset, tmp_path):
    page = write_report(dataset.annotations, dataset.results, tmp_path / "r", dataset.images, FAST)
    text = page.read_text()
    addresses = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", text))
    assert all(address.startswith(("#", "data:")) for address in addresses if ":" in address)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    numbers = json.loads((tmp_path / "r" / "analysis.json").read_text())
    assert numbers["stats"]["AP"]["value"] == pytest.approx(
        embedded(page, "report-data")["stats"]["AP"][0], abs=1e-4
    )
    assert {p.name for p in (tmp_path / "r").iterdir()} == {"index.html", "analysis.json"}
    again = write_report(dataset.annotations, dataset.results, tmp_path / "s", dataset.images, FAST)
    assert again.read_text() == text


def test_frames_are_those_of_the_videos(dataset, tmp_path):
    page = write_report(dataset.annotations, dataset.results, tmp_path, dataset.images, FAST)
    video = embedded(page, "video-1")
    assert video["shown"] == list(range(6)) and len(video["frames"]) == 6
    assert all(frame.startswith("data:image/webp;base64,") for frame in video["frames"])


def test_size_stays_in_the_budget(tmp_path):
    """Noise does not compress: 60 frames of 120 x 160 pixels have to shrink."""
    rng = np.random.default_rng(0)
    names = [f"v/{t:03d}.png" for t in range(60)]
    (tmp_path / "v").mkdir()
    for name in names:
        Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(tmp_path / name)
    mask = np.zeros((120, 160), np.uint8)
    mask[20:90, 30:100] = 1
    track = [rle(mask)] * 60
    truth = {
        "videos": [{"id": 1, "height": 120, "width": 160, "file_names": names}],
        "categories": [{"id": 1, "name": "noise"}],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 1, "segmentations": track}],
    }
    sizes = []
    for limit in (300_000, 700_000):
        options = ReportOptions(resamples=5, max_bytes=limit)
        page = write_report(truth, [], tmp_path / str(limit), tmp_path, options)
        assert page.stat().st_size <= limit
        frames = embedded(page, "video-0")["frames"]
        assert all(frames)
        sizes.append(sum(map(len, frames)))
    assert sizes[1] > 1.5 * sizes[0]


def test_a_budget_that_holds_nothing_leaves_the_frames_out(dataset, caplog):
    paths = sorted(dataset.images.glob("*/*.jpg"))
    assert encode_frames([paths, []], 500) == [[None] * len(paths), []]
    assert "none shown" in caplog.text


def test_long_videos_show_every_other_frame(dataset, tmp_path):
    options = ReportOptions(resamples=5, max_frames=4)
    page = write_report(dataset.annotations, dataset.results, tmp_path, dataset.images, options)
    video = embedded(page, "video-0")
    assert video["shown"] == [0, 2, 4] and len(video["frames"]) == 3
    assert all(len(track) == 3 for track in video["masks"])


def test_a_broken_frame_is_named_and_the_others_are_shown(dataset, tmp_path, caplog):
    images = tmp_path / "images"
    shutil.copytree(dataset.images, images)
    first, second, *_ = dataset.truth()["videos"][0]["file_names"]
    (images / first).unlink()
    (images / second).write_bytes(b"no picture")
    page = write_report(dataset.annotations, dataset.results, tmp_path / "r", images, FAST)
    frames = embedded(page, "video-0")["frames"]
    assert frames[:2] == [None, None] and all(frames[2:])
    assert first in caplog.text and second in caplog.text and "2 of 24 frames" in caplog.text


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1.0, 0.7, 0.02]), st.integers(0, 9))
def test_masks_shrink_to_the_nearest_pixels(height, width, density, seed):
    """With a canvas of the same shape and of another."""
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < density
    for canvas in ((height, width), (90, 41), (900, 1200)):
        grid = grid_of(canvas)
        (track,) = build_tracks([[rle(mask)]], None)
        store = MaskStore(canvas, range(1))
        store.add(track)
        small = coco_mask.decode({"size": grid, "counts": store.tracks[0][0].encode()})
        rows = ((np.arange(grid[0]) + 0.5) * height / grid[0]).astype(int)
        columns = ((np.arange(grid[1]) + 0.5) * width / grid[1]).astype(int)
        assert (small == mask[rows][:, columns]).all()
    assert grid_of((900, 1200)) == (336, 448) and grid_of((90, 41)) == (90, 41)


def test_equal_tracks_are_kept_once():
    one, other = rle(np.eye(8, 9) > 0), rle(np.ones((8, 9)))
    store = MaskStore((8, 9), range(3))
    tracks = build_tracks([[one, None, other], [one, None, other], [one]], None)
    assert [store.add(track) for track in tracks] == [0, 0, 1]
    assert store.tracks == [[one["counts"], None, other["counts"]], [one["counts"], None, None]]


def test_of_many_videos_mostly_the_worst_are_shown():
    class Video:
        def __init__(self, video_id):
            self.video_id, self.stats = video_id, {"AP": video_id / 100}

    videos = [Video(i) for i in range(100)]
    chosen = _choose(videos, 20)
    assert len(chosen) == 20 and set(range(15)) <= chosen and max(chosen) > 80
    for video in videos[:50]:
        video.stats["AP"] = -1  # nothing to find
    assert set(range(50, 65)) <= _choose(videos, 20)
    assert _choose(videos[:20], 20) == set(range(20)) and _choose(videos, 0) == set()


@pytest.mark.parametrize("with_images", [True, False])
def test_eval_command_writes_the_report(dataset, tmp_path, with_images, capsys):
    command = ["--results", str(dataset.results), "--annotations", str(dataset.annotations)]
    if with_images:
        command += ["--images", str(dataset.images)]
    assert main([*command, "--report", str(tmp_path / "report")]) == 0
    assert "AP50" in capsys.readouterr().out
    video = embedded(tmp_path / "report" / "index.html", "video-0")
    assert ("frames" in video) == with_images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: ["--annotations", d.public(t)], "--report needs ground truth, but"),
        (lambda d, t: ["--images", str(t / "nowhere")], "must be a folder for --report"),
        (lambda d, t: ["--report", str(d.results / "x")], "cannot write into"),
        (lambda d, t: ["--results", d.cut(t)], "is not complete JSON"),
    ],
)
def test_eval_command_says_what_is_wrong(dataset, tmp_path, change, message, capsys):
    def public(folder):
        path = folder / "public.json"
        path.write_text(json.dumps({**dataset.truth(), "annotations": None}))
        return str(path)

    def cut(folder):
        path = folder / "cut.json"
        path.write_text(dataset.results.read_text()[:999])
        return str(path)

    dataset.public, dataset.cut = public, cut
    options = {
        "--results": str(dataset.results),
        "--annotations": str(dataset.annotations),
        "--report": str(tmp_path / "report"),
    }
    flag, value = change(dataset, tmp_path)
    options[flag] = value
    assert main([part for pair in options.items() for part in pair]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and error.startswith("eval.py: error: ")


def test_python_callers_are_told_too(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        write_report(dataset.annotations, dataset.results, tmp_path, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="does not exist, nor does that of any other video"):
        write_report(dataset.annotations, dataset.results, tmp_path, tmp_path)
    with pytest.raises(ValueError, match="needs ground truth"):
        write_report({**dataset.truth(), "annotations": []}, [], tmp_path)
    for wrong in ({"max_bytes": 10}, {"max_frames": 0}, {"min_score": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ReportOptions(**wrong)


def test_the_tracking_numbers_are_those_of_the_analysis(dataset, tmp_path):
    page = write_report(dataset.annotations, dataset.results, tmp_path, None, FAST)
    shown = embedded(page, "report-data")["tracking"]
    numbers = json.loads((tmp_path / "analysis.json").read_text())["tracking"]
    assert shown["thresholds"] == numbers["thresholds"] and len(shown["curves"][""]) == 4
    for name, (value, low, high) in shown["stats"].items():
        assert value == pytest.approx(numbers[name], abs=1e-4)
        assert low <= value <= high
    hota, _, _, _ = shown["curves"][""]
    assert np.mean(hota) == pytest.approx(numbers["HOTA"], abs=1e-3)
    assert "HOTA" in page.read_text().partition('id="tracking"')[2].partition("</table>")[0]
