"""COCO categories in terms of YouTube-VIS ones, for still images beside videos.

Keys are COCO category ids, values YouTube-VIS ids of the edition; what is not listed has no
counterpart there.
"""

from __future__ import annotations

from typing import Literal

_TO_2019 = {
    1: 1, 2: 21, 3: 6, 4: 21, 5: 28, 7: 17, 8: 29, 9: 34, 17: 14, 18: 8, 19: 18, 21: 15, 22: 32,
    23: 20, 24: 30, 25: 22, 36: 33, 41: 5, 42: 27, 43: 40, 74: 36,
}  # fmt: skip
_TO_2021 = {
    1: 26, 2: 23, 3: 5, 4: 23, 5: 1, 7: 36, 8: 37, 9: 4, 16: 3, 17: 6, 18: 9, 19: 19, 21: 7, 22: 12,
    23: 2, 24: 40, 25: 18, 36: 31, 41: 29, 42: 33, 43: 34, 74: 24,
}  # fmt: skip
_MOUSE, _FOX_2019 = 74, 24


def coco_to_ytvis(edition: Literal["2019", "2021"], as_published: bool = False) -> dict[int, int]:
    """COCO category id -> YouTube-VIS category id.

    Args:
        edition: of YouTube-VIS.
        as_published: parity: the published 2019 map sends COCO's mouse to 24, which is *fox* in
            2019 (and *mouse* in 2021); True repeats that, to retrain the published models as they
            were. By default mouse goes to mouse.
    """
    mapping = dict(_TO_2019 if edition == "2019" else _TO_2021)
    if as_published and edition == "2019":
        mapping[_MOUSE] = _FOX_2019
    return mapping
