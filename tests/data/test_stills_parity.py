"""32 pictures through the augmentation of the stage of COCO pictures, equal to the published one.

`tests/golden/parity/stills_transform.json` holds, per picture of `coco_like.py`, what the published
code drew (seeded), and the digests of the pixels and masks, and the boxes, that came of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from seqformer.config import presets
from seqformer.data.loader import load_sets
from seqformer.data.transforms import to_tensors
from tests.data.coco_like import NUM_PICTURES, draw_coco_like
from tests.parity.weights import DATA

CONFIG = presets()["r50_coco"][1].data


class Drawn:
    """A generator that gives what the published code has drawn, in the order of ours."""

    def __init__(self, draws: list) -> None:
        values = {"random": [], "choice": [], "randint": [], "crop": []}
        for kind, value in draws:
            values[kind].append(value)
        self.shares = values["random"]
        flip, plain = self.shares
        # Published: below one half a single resize; ours draws whether to crop.
        self.shares = [flip, 0.0 if plain >= 0.5 else 0.9]
        sides = CONFIG.augment.short_sides
        self.whole = [sides.index(values["choice"][-1])]
        if values["crop"]:
            top, left, height, width = values["crop"][0]
            assert values["randint"] == [width, height]
            middle = CONFIG.augment.crop_resize_short_sides.index(values["choice"][0])
            self.whole = [middle, height, width, top, left, *self.whole]

    def random(self) -> float:
        return self.shares.pop(0)

    def integers(self, low: int, high: int | None = None) -> int:
        value = self.whole.pop(0)
        low, high = (0, low) if high is None else (low, high)
        assert low <= value < high, "ours could not have drawn it"
        return value


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, file = draw_coco_like(tmp_path_factory.mktemp("coco"))
    config = replace(
        CONFIG,
        train_images=folder,
        train_annotations=file,
        annotation_cache=None,
        cache_frames=True,
    )
    (clips,), classes = load_sets(config)
    return clips, classes


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def test_every_picture_with_instances_is_an_item(pictures):
    clips, classes = pictures
    assert [video.id for video in clips.annotations.videos] == list(range(1, NUM_PICTURES + 1))
    assert classes.num_classes == 91 and classes.ids == tuple(range(91))
    assert classes.names[90] == "toothbrush" and classes.names[2] == "unused_2"


@pytest.mark.parametrize("number", range(NUM_PICTURES))
def test_pixels_masks_and_boxes_are_the_published_ones(pictures, number):
    clips, _ = pictures
    golden = json.loads((DATA / "parity" / "stills_transform.json").read_text())[number]
    rng = Drawn(golden["draws"])
    clip, name = clips.load_clip(number, rng)
    assert not rng.shares and not rng.whole and f"{number + 1}" in name
    images, targets = to_tensors(clip)
    assert list(images.shape) == [1, 3, *golden["size"]]
    assert digest(images.numpy()) == golden["pixels"]
    assert targets["labels"].tolist() == golden["labels"]
    masks = targets["masks"].numpy()[:, 0]
    assert digest(np.packbits(masks)) == golden["masks"]
    boxes = targets["boxes"].numpy()[:, 0]
    np.testing.assert_allclose(boxes, np.array(golden["boxes"]).reshape(-1, 4), rtol=0, atol=1e-6)
    assert images.numpy().dtype == np.float32
