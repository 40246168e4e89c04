"""The picture of a run: which results and videos it shows, and in which colours."""

import numpy as np
import pytest

from seqformer.annotations.run_lengths import encode_masks
from seqformer.visualization.drawing import COLOURS, DrawnTrack
from seqformer.visualization.showcase import GAP, SCALE, clear_tracks, most_objects, showcase

H, W = 40, 60


def track(score, box, category_id=1, frames=2):
    """A rectangle (x0, y0, x1, y1) in every frame."""
    mask = np.zeros((H, W, 1), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return DrawnTrack(
        category_id=category_id, score=score, segmentations=[encode_masks(mask)[0]] * frames
    )


def test_only_the_best_result_of_an_object_is_clear():
    best, twin = track(0.9, (5, 5, 25, 25)), track(0.8, (5, 5, 25, 24), category_id=2)
    other, unsure = track(0.6, (30, 5, 50, 25)), track(0.49, (30, 28, 50, 38))
    assert clear_tracks([unsure, other, twin, best], 0.5) == [best, other]
    assert clear_tracks([], 0.5) == clear_tracks([unsure], 0.5) == []


def test_videos_with_most_objects_come_first_and_keep_their_order():
    one, sure = track(0.6, (0, 0, 9, 9)), track(0.9, (20, 20, 30, 30))
    results = [[], [one], [one, sure], [sure], [sure, sure]]
    assert most_objects(results, 2) == [2, 4]
    assert most_objects(results, 3) == [2, 3, 4]
    assert most_objects([], 3) == []


@pytest.mark.parametrize("colour", COLOURS)
def test_masks_are_filled_in_a_colour_unlike_the_object(colour):
    """Two objects of a colour of the scheme, side by side on grey."""
    frame = np.full((H, W, 3), 128, np.uint8)
    tracks = [track(0.9, (2, 2, 26, 38)), track(0.8, (34, 2, 58, 38))]
    frame[2:38, 2:26] = frame[2:38, 34:58] = colour
    pictures = showcase([([frame, frame], tracks)] * 2, {1: "disc"})
    assert len(pictures) == 2
    assert pictures[0].shape == (2 * H * SCALE + GAP, 2 * W * SCALE + GAP, 3)
    above, below = pictures[0][: H * SCALE], pictures[0][H * SCALE + GAP :]
    corner = (4 * SCALE, 4 * SCALE), (4 * SCALE, 55 * SCALE)
    filled = [below[place].astype(int) for place in corner]
    for place, value in zip(corner, filled, strict=True):
        assert np.linalg.norm(value - above[place]) > 60
    assert np.linalg.norm(filled[0] - filled[1]) > 60


def test_a_video_without_results_is_shown_as_it_is():
    frame = np.full((H, W, 3), 7, np.uint8)
    (picture,) = showcase([([frame], [])], {})
    assert (picture[: H * SCALE] == 7).all() and showcase([], {}) == []
