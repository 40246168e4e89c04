"""The page in a browser: real keys, real clicks, the console silent."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from seqformer.evaluation import analyse
from seqformer.report import ReportOptions, write_report

FAST = ReportOptions(resamples=50)


@pytest.fixture(scope="module")
def page(_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return write_report(_dataset.annotations, _dataset.results, folder, _dataset.images, FAST)


def painted(browser) -> tuple[int, int, str, int]:
    """Position of the video, frame, view, number of masks drawn."""
    position, frame, view, masks = browser.evaluate("document.body.dataset.painted").split("/")
    return int(position), int(frame), view, int(masks)


def expected_masks(dataset, position: int, frame: int, view: str, score: float = 0.3) -> int:
    truth, results = dataset.truth(), json.loads(dataset.results.read_text())
    video_id = sorted(video["id"] for video in truth["videos"])[position]
    entries = truth["annotations"] if view in ("truth", "both") else []
    if view in ("results", "both"):
        entries = entries + [r for r in results if r["score"] >= score]
    return sum(bool(e["segmentations"][frame]) for e in entries if e["video_id"] == video_id)


def test_keys_move_through_frames_videos_and_views(browser, page, dataset):
    browser.open(page)
    order = browser.evaluate("list.positions")
    aps = browser.evaluate("list.positions.map((p) => report.videos[p].ap)")
    assert aps == sorted(aps) and len(aps) == 4
    browser.evaluate("document.getElementById('videos').scrollIntoView({behavior: 'instant'})")
    browser.wait_for("document.body.dataset.painted !== undefined")
    assert painted(browser)[:3] == (order[0], 0, "both")
    for key, place in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 5)]:
        browser.press(key)
        assert painted(browser)[1] == place
    browser.press("ArrowRight")
    assert painted(browser)[1] == 5
    for key, view in [
        ("g", "truth"),
        ("t", "results"),
        ("n", "none"),
        ("p", "results"),
        ("b", "both"),
    ]:
        browser.press(key)
        got = painted(browser)
        assert got == (order[0], 5, view, expected_masks(dataset, order[0], 5, view))
    browser.press("ArrowDown")
    assert painted(browser)[:2] == (order[1], 0)
    assert browser.evaluate("document.querySelectorAll('[aria-selected=true]').length") == 1
    browser.press(" ")
    browser.wait_for("state.frame === 2")
    browser.press(" ")
    assert browser.evaluate("timer") is None
    assert browser.evaluate("location.hash").startswith("#video=")


def test_what_is_seen(browser, page, dataset, tmp_path):
    """A screenshot: predicted pixels carry the colour of their instance, the frame is behind."""
    truth = dataset.truth()
    entry = truth["annotations"][0]
    browser.open(page, f"#video={entry['video_id']}&frame=0&view=truth")
    browser.wait_for("document.body.dataset.painted !== undefined && state.frame === 0")
    picture = tmp_path / "report.png"
    browser.screenshot(picture)
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape == (768, 1366, 3) and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    left, top, wide, high = browser.evaluate(
        "(() => { const b = canvas.getBoundingClientRect();"
        "return [b.x, b.y, b.width, b.height]; })()"
    )
    mask = coco_mask.decode(entry["segmentations"][0]).astype(bool)
    frame = np.asarray(Image.open(dataset.images / truth["videos"][0]["file_names"][0]), np.float64)
    y, x = np.argwhere(mask).mean(axis=0).round().astype(int)
    assert mask[y, x]
    seen = pixels[int(top + (y + 0.5) * high / 64), int(left + (x + 0.5) * wide / 96)].astype(float)
    orange = np.array([230, 159, 0])
    blend = frame[y, x] + 115 / 255 * (orange - frame[y, x])
    assert np.abs(seen - blend).max() < 40  # the frame was compressed
    assert np.abs(seen - frame[y, x]).max() > 20


def test_counts_follow_the_score(browser, page, dataset):
    errors = analyse(dataset.annotations, dataset.results, resamples=1).errors.counts
    browser.open(page)
    script = (
        "Object.fromEntries([...document.querySelectorAll('#kinds tbody tr')].map("
        "(row) => [row.dataset.kind, Number(row.querySelector('[data-count]').textContent)]))"
    )
    set_score = (
        "(() => { const s = document.getElementById('score'); s.value = %s;"
        "s.dispatchEvent(new Event('input')); })()"
    )
    browser.evaluate(set_score % 0)
    assert browser.evaluate(script) == errors
    kept = [r for r in json.loads(dataset.results.read_text()) if r["score"] >= 0.3]
    browser.evaluate(set_score % 0.3)
    above = analyse(dataset.annotations, kept, resamples=1).errors.counts
    assert browser.evaluate(script) == above
    assert above["class"] and above["fragment"] and above["missed"] and not above["duplicate"]


def test_sorting_and_filtering_the_videos(browser, page):
    browser.open(page)
    browser.click("#video-table [data-sort=failures]")
    rows = "[...document.querySelectorAll('#video-table tbody tr')]"
    column = rows + ".map((r) => r.cells[%d].textContent)"
    failures = [int(text) for text in browser.evaluate(column % 3)]
    assert failures == sorted(failures, reverse=True) and failures[0] > failures[-1]
    browser.click("#video-table [data-sort=failures]")
    assert [int(text) for text in browser.evaluate(column % 3)] == failures[::-1]
    browser.click("#video-table [data-sort=worst]")
    worst = [float(text) for text in browser.evaluate(column % 2)]
    assert worst == sorted(worst)
    header = "document.querySelector('#video-table [aria-sort]').textContent"
    assert browser.evaluate(header) == "Worst IoU"
    browser.click("#kinds [data-show=fragment]")
    with_fragments = browser.evaluate(
        "report.videos.filter((row) => countFailures(row, 0.3).fragment).map((row) => row.name)"
    )
    assert sorted(browser.evaluate(column % 0)) == sorted(with_fragments) != []
    browser.click("#class-table [data-sort=name]")
    cells = "[...document.querySelectorAll('#class-table tbody th')]"
    names = browser.evaluate(cells + ".map((h) => h.textContent)")
    assert names == sorted(names)


def test_a_track_can_be_shown_alone(browser, page):
    browser.open(page)
    browser.wait_for("document.body.dataset.painted !== undefined")
    browser.click(".track")
    assert painted(browser)[3] <= 1
    assert (
        browser.evaluate("document.querySelector('.track').getAttribute('aria-pressed')") == "true"
    )


def test_curves_and_theme(browser, page):
    browser.open(page)
    assert browser.evaluate("document.querySelectorAll('#curve-chart polyline').length") == 3
    label = "document.querySelector('#curve-chart svg[role=img]').getAttribute('aria-label')"
    mean = browser.evaluate(label)
    browser.evaluate(
        "(() => { const s = document.getElementById('curve-class'); s.selectedIndex = 1;"
        "s.dispatchEvent(new Event('change')); })()"
    )
    assert browser.evaluate(label) != mean
    ground = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(ground)
    browser.click("#theme")
    assert browser.evaluate(ground) != light


def test_everything_that_can_be_used_has_a_name(browser, page):
    browser.open(page)
    nameless = browser.evaluate(
        "[...document.querySelectorAll('button, input, select, canvas, a')].filter((e) =>"
        "!(e.textContent.trim() || e.getAttribute('aria-label') || (e.labels && e.labels.length)))"
        ".map((e) => e.outerHTML)"
    )
    assert nameless == []
    assert browser.evaluate("document.documentElement.lang") == "en"
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_masks_are_read_as_they_were_written(browser, page):
    rng = np.random.default_rng(0)
    browser.open(page)
    for height, width, share in [(1, 1, 1.0), (7, 5, 0.5), (40, 30, 0.02), (300, 200, 0.999)]:
        mask = (rng.random((height, width)) < share).astype(np.uint8)
        counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
        script = f"Array.from(readMask({json.dumps(counts)}, {height}, {width}))"
        assert browser.evaluate(script) == mask.ravel().tolist()


def test_without_images(browser, dataset, tmp_path):
    page = write_report(dataset.annotations, dataset.results, tmp_path, options=FAST)
    browser.open(page, "#video=2&frame=3&view=both")
    assert painted(browser) == (1, 3, "both", expected_masks(dataset, 1, 3, "both"))


def test_names_are_text_and_not_code(browser, dataset, tmp_path):
    truth = dataset.truth()
    name = "</script><script>console.log('run')</script><b>&amp;\"'<!--"
    for category in truth["categories"]:
        category["name"] += name
    options = ReportOptions(title=name, resamples=10)
    page = write_report(truth, dataset.results, tmp_path, options=options)
    browser.open(page)
    assert browser.evaluate("document.querySelector('h1').textContent") == name
    names = browser.evaluate("[...categoryNames.values()]")
    assert names == [category["name"] for category in truth["categories"]]
    assert browser.evaluate("document.querySelectorAll('b:not(.bar b)').length") == 0


def test_videos_that_are_only_listed(browser, dataset, tmp_path):
    options = ReportOptions(max_videos=1, resamples=10)
    page = write_report(dataset.annotations, dataset.results, tmp_path, dataset.images, options)
    browser.open(page)
    assert browser.evaluate("document.querySelectorAll('#video-table tbody tr').length") == 4
    shown = browser.evaluate("report.videos.map((row) => row.shown)")
    assert sum(shown) == 1
    aps = browser.evaluate("report.videos.map((row) => row.ap)")
    assert aps[shown.index(True)] == min(aps)
    browser.evaluate(f"selectVideo({shown.index(False)})")
    assert browser.evaluate("document.getElementById('no-frame').hidden") is False
    assert browser.evaluate("canvas.hidden") is True


def test_the_tracking_curves_follow_the_class_and_the_pointer(browser, page, dataset):
    browser.open(page)
    lines = "document.querySelectorAll('#tracking-chart polyline').length"
    assert browser.evaluate(lines) == 4
    legend = "document.querySelector('#tracking-chart .legend').textContent"
    whole = browser.evaluate(legend)
    assert all(name in whole for name in ("HOTA", "DetA", "AssA", "LocA"))
    hota = browser.evaluate("report.tracking.stats.HOTA[0]")
    assert f"{100 * hota:.1f}" in whole
    browser.evaluate(
        "(() => { const chooser = document.getElementById('tracking-class');"
        "chooser.selectedIndex = 1; chooser.dispatchEvent(new Event('change')); })()"
    )
    assert browser.evaluate(legend) != whole
    browser.evaluate(
        "document.querySelector('#tracking-chart svg[role=img]').dispatchEvent("
        "new PointerEvent('pointermove', {clientX: 0, clientY: 0}))"
    )
    assert "at IoU 0.05" in browser.evaluate(legend)
