"""The maps from COCO, checked by the names on both sides."""

import pytest

from seqformer.annotations.coco_categories import EDITIONS, coco_to_ytvis, target_categories

COCO_NAMES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train",
    8: "truck", 9: "boat", 16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow",
    22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe", 34: "frisbee", 36: "snowboard",
    41: "skateboard", 42: "surfboard", 43: "tennis racket", 74: "mouse",
}  # fmt: skip
OTHER_WORDS = {
    ("bicycle", "motorbike"), ("motorcycle", "motorbike"), ("car", "sedan"), ("car", "vehical"),
    ("bus", "vehical"), ("truck", "vehical"),
}  # fmt: skip


@pytest.mark.parametrize("edition", ["2019", "2021", "ovis"])
def test_names_agree_on_both_sides(edition):
    names = {c["id"]: c["name"].lower().replace("_", " ") for c in target_categories(edition)}
    for coco, target in coco_to_ytvis(edition).items():
        pair = COCO_NAMES[coco], names[target]
        assert pair[0] == pair[1] or pair in OTHER_WORDS, pair


def test_every_shared_name_is_mapped():
    for edition in ("2019", "2021", "ovis"):
        names = {c["name"].lower().replace("_", " ") for c in target_categories(edition)}
        shared = {i for i, name in COCO_NAMES.items() if name in names}
        assert shared <= set(coco_to_ytvis(edition)), edition


def test_mouse_is_a_mouse_unless_the_published_map_is_asked_for():
    assert coco_to_ytvis("2019")[74] == 36
    assert coco_to_ytvis("2019_published") == {**coco_to_ytvis("2019"), 74: 24}
    assert coco_to_ytvis("2021")[74] == 24


def test_maps_have_the_published_extent():
    counts = {"2019": (21, 40), "2019_published": (21, 40), "2021": (22, 40), "ovis": (18, 25)}
    for edition in EDITIONS:
        count, last = counts[edition]
        assert len(coco_to_ytvis(edition)) == count
        assert [c["id"] for c in target_categories(edition)] == list(range(1, last + 1))
        assert set(coco_to_ytvis(edition).values()) <= set(range(1, last + 1))
