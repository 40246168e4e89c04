"""The published slip is repeated only when asked for."""

from seqformer.data.coco_categories import coco_to_ytvis


def test_mouse_is_a_mouse_unless_the_published_map_is_asked_for():
    assert coco_to_ytvis("2019")[74] == 36
    assert coco_to_ytvis("2019", as_published=True)[74] == 24
    assert coco_to_ytvis("2021") == coco_to_ytvis("2021", as_published=True)
    assert coco_to_ytvis("2021")[74] == 24


def test_maps_have_the_published_extent():
    for edition, count, last in (("2019", 21, 40), ("2021", 22, 40)):
        mapping = coco_to_ytvis(edition)
        assert len(mapping) == count
        assert min(mapping.values()) >= 1 and max(mapping.values()) <= last
    assert coco_to_ytvis("2019")[1] == 1 and coco_to_ytvis("2021")[1] == 26
