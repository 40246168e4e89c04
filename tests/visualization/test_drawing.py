"""Drawing: what is visible, that colours stay, and that the written files can be read."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from seqformer.annotations.run_lengths import encode_masks
from seqformer.data.video_reader import read_video
from seqformer.visualization.drawing import (
    COLOURS,
    DrawnTrack,
    best_tracks,
    draw_video,
    tracks_from_entries,
)
from seqformer.visualization.side_by_side import side_by_side, tracks_from_ground_truth
from seqformer.visualization.video_writer import write_video

HEIGHT, WIDTH = 240, 320


def square(left: int, top: int, side: int = 60):
    mask = np.zeros((HEIGHT, WIDTH, 1), bool)
    mask[top : top + side, left : left + side] = True
    return encode_masks(mask)[0]


def track(score: float, *segmentations, category_id: int = 1, boxes=None) -> DrawnTrack:
    return DrawnTrack(
        category_id=category_id, score=score, segmentations=segmentations, boxes_xyxy=boxes
    )


def grey(num_frames: int) -> list[np.ndarray]:
    return [np.full((HEIGHT, WIDTH, 3), 128, np.uint8) for _ in range(num_frames)]


def test_a_track_keeps_its_colour():
    tracks = [
        track(0.5, square(10, 100), None, square(60, 100)),
        track(0.9, square(200, 100), square(210, 110), square(220, 120)),
    ]
    frames = draw_video(grey(3), tracks, {})
    best = frames[0][130, 230], frames[1][140, 240], frames[2][150, 250]
    other = frames[0][130, 40], frames[2][130, 90]
    for colours, expected in ((best, COLOURS[0]), (other, COLOURS[1])):
        for colour in colours:
            np.testing.assert_allclose(colour, 0.55 * 128 + 0.45 * np.array(expected), atol=1)
    assert (frames[1][130, 40] == 128).all()  # absent


def test_input_is_not_changed_and_outside_is_left_alone():
    frames = grey(1)
    (drawn,) = draw_video(frames, [track(0.9, square(100, 100))], {})
    assert (frames[0] == 128).all()
    assert drawn.shape == frames[0].shape and drawn.dtype == np.uint8
    assert (drawn[200:] == 128).all() and (drawn[:, 250:] == 128).all()


def test_label_is_drawn_above_the_box():
    (with_label,) = draw_video(grey(1), [track(0.9, square(100, 100))], {1: "rabbit"})
    region = with_label[80:99, 100:160].reshape(-1, 3)
    assert (region == COLOURS[0]).all(axis=1).mean() > 0.4
    assert (region < 60).all(axis=1).any()  # dark letters on orange


def test_labels_do_not_cover_each_other():
    tracks = [track(0.9 - 0.1 * i, square(100 + i, 100)) for i in range(4)]
    (drawn,) = draw_video(grey(1), tracks, {1: "rabbit"})
    for colour in COLOURS[:4]:
        assert (drawn == colour).all(axis=2).sum() > 500


def test_small_frames_are_enlarged_for_the_labels():
    mask = np.ones((30, 50, 1), bool)
    frame = np.zeros((30, 50, 3), np.uint8)
    (drawn,) = draw_video([frame], [track(0.9, encode_masks(mask)[0])], {1: "x" * 80})
    assert drawn.shape == (240, 400, 3)


def test_given_boxes_are_used():
    boxes = np.array([[20.0, 30.0, 300.0, 200.0]])
    (drawn,) = draw_video(grey(1), [track(0.9, square(100, 100), boxes=boxes)], {})
    assert (drawn[199:201, 150] == COLOURS[0]).all(axis=-1).any()
    outside = np.array([[-50.0, -50.0, 9999.0, 9999.0]])
    draw_video(grey(1), [track(0.9, square(100, 100), boxes=outside)], {})


def test_only_the_best_label_of_the_same_masks_is_kept():
    same = square(10, 10)
    tracks = [
        track(0.4, same, category_id=1),
        track(0.6, same, category_id=2),
        track(0.5, square(90, 90), category_id=3),
        track(0.2, square(50, 50), category_id=4),
        track(0.9, None, category_id=5),
    ]
    assert [t.category_id for t in best_tracks(tracks, 0.3)] == [2, 3]


def test_results_entries_can_be_drawn():
    entry = {"video_id": 1, "score": 0.9, "category_id": 4, "segmentations": [square(9, 9), None]}
    frames = draw_video(grey(2), tracks_from_entries([entry]), {4: "parrot"})
    assert not (frames[0] == 128).all() and (frames[1] == 128).all()


@pytest.mark.parametrize(
    "change",
    [
        {"segmentations": None},
        {"score": None},
        {"segmentations": [{"size": [240, 320], "counts": "~~"}]},
        {"segmentations": [{"size": [4, 4], "counts": "0"}]},
        {"segmentations": ["text"]},
    ],
)
def test_broken_entries_are_refused(change):
    entry = {"video_id": 1, "score": 0.9, "category_id": 4, "segmentations": [], **change}
    with pytest.raises(ValueError):
        tracks_from_entries([entry])


def test_masks_of_other_frames_are_refused():
    with pytest.raises(ValueError, match="frames they were made from"):
        draw_video([np.zeros((64, 64, 3), np.uint8)], [track(0.9, square(9, 9))], {})
    with pytest.raises(ValueError, match="1 frames but the video has more"):
        draw_video(grey(2), [track(0.9, square(9, 9))], {})


def test_mp4_of_odd_size_can_be_read_again(tmp_path):
    frames = [np.full((45, 63, 3), 60 * i, np.uint8) for i in range(4)]
    write_video(tmp_path / "new" / "a.mp4", iter(frames), fps=7.5)
    read = list(read_video(tmp_path / "new" / "a.mp4"))
    assert [f.shape for f in read] == [(46, 64, 3)] * 4
    assert [round(f.mean() / 60) for f in read] == [0, 1, 2, 3]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_gif_and_png(tmp_path):
    frames = [np.full((20, 30, 3), 80 * i, np.uint8) for i in range(3)]
    write_video(tmp_path / "a.gif", frames, fps=5)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3 and gif.info["duration"] == 200
    write_video(tmp_path / "pictures", frames)
    names = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "pictures" / names[1])), frames[1])


def test_files_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.mp4, \.webm or \.gif"):
        write_video(tmp_path / "a.txt", [])
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "a.mp4", [])
    with pytest.raises(ValueError, match="fps, the rate of frames per second, must be between"):
        write_video(tmp_path / "a.mp4", [], fps=0)
    assert not list(tmp_path.iterdir())


def test_webm_can_be_read_again(tmp_path):
    frames = [np.full((45, 63, 3), 60 * i, np.uint8) for i in range(4)]
    write_video(tmp_path / "a.webm", iter(frames), fps=7.5)
    read = list(read_video(tmp_path / "a.webm"))
    assert [f.shape for f in read] == [(46, 64, 3)] * 4
    assert [round(f.mean() / 60) for f in read] == [0, 1, 2, 3]


def test_frames_of_several_sizes_are_refused(tmp_path):
    frames = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)]
    for name in ("a.mp4", "a.webm", "a.gif"):
        with pytest.raises(ValueError, match=r"frame 1 of .* would be 10x8 pixels"):
            write_video(tmp_path / name, frames)
    assert not list(tmp_path.iterdir())


def test_colours_stay_over_the_results_of_a_stream():
    left, right = square(10, 100), square(200, 100)
    colours = {}
    seen = []
    for scores in ((0.5, 0.9), (0.9, 0.5)):
        tracks = [
            DrawnTrack(category_id=1, score=score, segmentations=[mask], query=number)
            for number, (score, mask) in enumerate(zip(scores, (left, right), strict=True))
        ]
        (frame,) = draw_video(grey(1), tracks, {}, colours=colours)
        seen.append((tuple(frame[130, 40]), tuple(frame[130, 230])))
    assert seen[0] == seen[1] and seen[0][0] != seen[0][1]


def test_ground_truth_beside_results_in_the_same_colours():
    truth = [
        DrawnTrack(category_id=1, score=1.0, segmentations=[square(10, 100), square(20, 100)]),
        DrawnTrack(category_id=1, score=1.0, segmentations=[square(200, 100), None]),
    ]
    actual = [
        track(0.9, square(205, 105), square(205, 105)),
        track(0.8, square(15, 100), square(25, 100)),
        track(0.7, square(100, 10), square(100, 10)),
        track(0.1, square(100, 170), square(100, 170)),
    ]
    first, second = side_by_side(iter(grey(2)), truth, actual, {}, min_score=0.3)
    assert first.shape == second.shape == (HEIGHT + 22, 2 * WIDTH + 4, 3)
    right = WIDTH + 4
    assert tuple(first[152, 40]) == tuple(first[152, right + 40])
    assert tuple(first[152, 230]) == tuple(first[152, right + 235])
    others = {tuple(first[152, 40]), tuple(first[152, 230])}
    assert tuple(first[22 + 50, right + 130]) not in others
    assert (first[22 + 200, right + 130] == 128).all(), "below min_score"
    assert (second[152, 230] == 128).all() and not (second[152, right + 235] == 128).all()


def test_annotated_objects_become_tracks():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:20, 30:60] = True
    runs = encode_masks(mask[..., None])[0]["counts"]
    instance = SimpleNamespace(annotation_id=5, category_id=3, segmentations=(runs, None))
    video = SimpleNamespace(id=1, height=HEIGHT, width=WIDTH, instances=(instance,))
    (actual,) = tracks_from_ground_truth(video)
    assert actual.category_id == 3 and actual.segmentations[1] is None
    assert np.array_equal(coco_mask.decode(actual.segmentations[0]).astype(bool), mask)
    instance.segmentations = ("72", None)
    with pytest.raises(
        ValueError, match="annotation 5 of video 1, frame 0: the mask has runs that"
    ):
        tracks_from_ground_truth(video)
