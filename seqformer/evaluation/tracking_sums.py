"""The sums behind HOTA and IDF1, per video and class, and the numbers of any weighting of videos.

Letters: R pairs of a video and a class that has instances or results in it, V videos and K classes
in ascending order of their ids, A similarity thresholds, W weightings of the videos.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from seqformer.evaluation.class_overlaps import ClassOverlaps
from seqformer.evaluation.hota import ALPHAS, CURVES, hota_curves, hota_sums
from seqformer.evaluation.hota import SUMS as HOTA_SUMS
from seqformer.evaluation.identity import SUMS as IDENTITY_SUMS
from seqformer.evaluation.identity import identity_numbers, identity_sums

NUMBERS = (*CURVES, "IDF1", "IDP", "IDR", "IDSW")
"""The numbers of a class, and of all. Those of HOTA are means over the thresholds."""
SUMMED = ("IDSW",)
"""Of these all classes together have the sum, not the mean."""


@dataclass(frozen=True)
class TrackingSums:
    """What every video and class contributes."""

    video_ids: list[int]
    """[V]."""
    category_ids: list[int]
    """[K]."""
    videos: np.ndarray
    """[R]: position of the video."""
    classes: np.ndarray
    """[R]: position of the class."""
    hota: np.ndarray
    """[R, 7, A]."""
    identity: np.ndarray
    """[R, 4]."""

    @classmethod
    def of(
        cls, video_ids: Iterable[int], category_ids: Iterable[int], pairs: Iterable[ClassOverlaps]
    ) -> TrackingSums:
        """Measure every pair of a video and a class."""
        videos, classes = sorted(video_ids), sorted(category_ids)
        video_at = {video_id: v for v, video_id in enumerate(videos)}
        class_at = {category_id: k for k, category_id in enumerate(classes)}
        keys, hota, identity = [], [], []
        for overlaps in pairs:
            similarity = overlaps.similarity()
            keys.append((video_at[overlaps.video_id], class_at[overlaps.category_id]))
            hota.append(hota_sums(overlaps, similarity))
            identity.append(identity_sums(overlaps, similarity))
        positions = np.array(keys, np.int64).reshape(-1, 2)
        return cls(
            videos,
            classes,
            positions[:, 0],
            positions[:, 1],
            np.array(hota, np.float64).reshape(-1, len(HOTA_SUMS), len(ALPHAS)),
            np.array(identity, np.float64).reshape(-1, len(IDENTITY_SUMS)),
        )

    @cached_property
    def hota_by_class(self) -> np.ndarray:
        """Sums over all videos, [K, 7, A]."""
        sums = np.zeros((len(self.category_ids), *self.hota.shape[1:]))
        np.add.at(sums, self.classes, self.hota)
        return sums

    @cached_property
    def identity_by_class(self) -> np.ndarray:
        """Sums over all videos, [K, 4]."""
        sums = np.zeros((len(self.category_ids), *self.identity.shape[1:]))
        np.add.at(sums, self.classes, self.identity)
        return sums

    @cached_property
    def _seen(self) -> list[int]:
        """Positions of the classes that occur."""
        return np.unique(self.classes).tolist()

    def class_numbers(self, k: int, weights: np.ndarray) -> dict[str, np.ndarray]:
        """`NUMBERS` of a class under every weighting of the videos, [W] each.

        Args:
            k: position of the class.
            weights: [W, V], whole numbers >= 0: how often every video counts.
        """
        rows = np.flatnonzero(self.classes == k)
        own = weights[:, self.videos[rows]].astype(np.float64)
        flat = self.hota[rows].reshape(len(rows), len(HOTA_SUMS) * len(ALPHAS))
        hota = (own @ flat).reshape(len(own), len(HOTA_SUMS), len(ALPHAS))
        return numbers_of(hota, own @ self.identity[rows])

    def mean_numbers(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """`NUMBERS` of all classes under every weighting of the videos, [W] each.

        With all weights 1, as TrackEval averages: every listed class counts, with 0 where it does
        not occur. A class that occurs, but not in the videos with a weight, is left out there.
        """
        totals = {name: np.zeros(len(weights)) for name in NUMBERS}
        counted = np.zeros(len(weights))
        for k in self._seen:
            rows = np.flatnonzero(self.classes == k)
            is_there = (weights[:, self.videos[rows]] > 0).any(axis=1)
            counted += is_there
            for name, values in self.class_numbers(k, weights).items():
                totals[name] += values * is_there
        num_classes = max(1, len(self.category_ids))
        share = len(self._seen) / num_classes
        for name in totals.keys() - set(SUMMED):
            totals[name] *= share / np.maximum(1, counted)
        totals["LocA"] += 1 - share  # a class that does not occur has 1 there
        return totals


def numbers_of(hota: np.ndarray, identity: np.ndarray) -> dict[str, np.ndarray]:
    """`NUMBERS` from added sums [..., 7, A] and [..., 4], [...] each."""
    means = {name: curve.mean(axis=-1) for name, curve in hota_curves(hota).items()}
    return {**means, **identity_numbers(identity)}
