"""COCO categories in terms of YouTube-VIS and OVIS ones, for still images beside videos.

Keys are COCO category ids, values ids of the video set; what is not listed has no counterpart
there.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

Edition = Literal["2019", "2019_published", "2021", "ovis"]
"""A video set. 2019_published repeats a slip of the published map, see `coco_to_ytvis`."""
CocoMapping = Literal["as_is", "2019", "2019_published", "2021", "ovis"]
"""An edition, or as_is: the file has the categories of the video set already."""
EDITIONS: tuple[Edition, ...] = get_args(Edition)

_TO_2019 = {
    1: 1, 2: 21, 3: 6, 4: 21, 5: 28, 7: 17, 8: 29, 9: 34, 17: 14, 18: 8, 19: 18, 21: 15, 22: 32,
    23: 20, 24: 30, 25: 22, 36: 33, 41: 5, 42: 27, 43: 40, 74: 36,
}  # fmt: skip
_TO_2021 = {
    1: 26, 2: 23, 3: 5, 4: 23, 5: 1, 7: 36, 8: 37, 9: 4, 16: 3, 17: 6, 18: 9, 19: 19, 21: 7, 22: 12,
    23: 2, 24: 40, 25: 18, 36: 31, 41: 29, 42: 33, 43: 34, 74: 24,
}  # fmt: skip
_TO_OVIS = {
    1: 1, 16: 2, 17: 3, 18: 4, 19: 5, 20: 6, 21: 7, 22: 8, 23: 9, 24: 10, 25: 11, 2: 21, 4: 22,
    5: 23, 9: 24, 3: 25, 6: 25, 8: 25,
}  # fmt: skip
"""No paper gives this map; it follows from the names. OVIS has the same word for fourteen COCO
categories (person, the animals, bicycle, motorcycle, airplane, boat); its "vehical" takes the road
vehicles that have no category of their own: car, bus and truck. A train is not one of them."""
_MOUSE, _FOX_2019 = 74, 24

_NAMES_2019 = (
    "person giant_panda lizard parrot skateboard sedan ape dog snake monkey hand rabbit duck cat "
    "cow fish train horse turtle bear motorbike giraffe leopard fox deer owl surfboard airplane "
    "truck zebra tiger elephant snowboard boat shark mouse frog eagle earless_seal tennis_racket"
)
_NAMES_2021 = (
    "airplane bear bird boat car cat cow deer dog duck earless_seal elephant fish flying_disc fox "
    "frog giant_panda giraffe horse leopard lizard monkey motorbike mouse parrot person rabbit "
    "shark skateboard snake snowboard squirrel surfboard tennis_racket tiger train truck turtle "
    "whale zebra"
)
_NAMES_OVIS = (
    "Person Bird Cat Dog Horse Sheep Cow Elephant Bear Zebra Giraffe Poultry Giant_panda Lizard "
    "Parrot Monkey Rabbit Tiger Fish Turtle Bicycle Motorcycle Airplane Boat Vehical"
)
_NAMES_COCO = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
    "fire hydrant, , stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, "
    "bear, zebra, giraffe, , backpack, umbrella, , , handbag, tie, suitcase, frisbee, skis, "
    "snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, "
    "tennis racket, bottle, , wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, "
    "orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, , "
    "dining table, , , toilet, , tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, "
    "toaster, sink, refrigerator, , book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)


def coco_names() -> dict[int, str]:
    """COCO's 80 categories by id; the ids 1..90 have gaps."""
    names = enumerate(_NAMES_COCO.split(", "), start=1)
    return {number: name for number, name in names if name}


def coco_to_ytvis(edition: Edition) -> dict[int, int]:
    """COCO category id -> category id of the video set.

    parity: the published 2019 map sends COCO's mouse to 24, which is *fox* in 2019 (and *mouse* in
    2021). "2019_published" repeats that, to retrain the published models as they were; "2019"
    sends mouse to mouse.
    """
    if edition == "2019_published":
        return {**_TO_2019, _MOUSE: _FOX_2019}
    return dict({"2019": _TO_2019, "2021": _TO_2021, "ovis": _TO_OVIS}[edition])


def target_categories(edition: Edition) -> list[dict[str, Any]]:
    """Ids and names of all categories of the video set, as its annotation files list them."""
    names = {"2021": _NAMES_2021, "ovis": _NAMES_OVIS}.get(edition, _NAMES_2019)
    return [{"id": i, "name": name} for i, name in enumerate(names.split(), start=1)]
