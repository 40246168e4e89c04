"""What is wrong with every false positive, which instances are missed, and what each kind costs.

After TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV
2020, section 2), for tracks. At one IoU threshold (0.5 by default) a false positive is, in this
order:

    duplicate   enough IoU with an instance of its class, which a better result has taken
    class       enough IoU with an instance of another class
    switch      some IoU (0.1) with an instance of its class, and the largest part of the pixels
                that it lacks is in frames where it lies on another instance
    fragment    the same, but in frames where the instance is visible and the result absent
    mask        the same, but in the other frames: right object, wrong outline
    both        some IoU with an instance of another class only
    background  none of these

An instance is missed if no result takes it and no class, switch, fragment or mask error is about
it. The cost of a kind is the AP at this threshold that would be gained if it did not occur: the
errors that are about an instance are made right (or removed, where the instance is taken anyway),
the others are removed, missed instances are not asked for.

Whether a result is right depends on better results only. So these kinds also hold for the results
above any score, and a missed instance is missed above every score at which nothing finds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from seqformer.evaluation.ap_accumulator import mean_of_valid, single_average_precision
from seqformer.evaluation.matching import IOU_THRESHOLDS, Matches
from seqformer.evaluation.pairwise_iou import PairwiseIoU

BACKGROUND_IOU = 0.1
"""Below this IoU a result has nothing to do with an instance."""
FALSE_POSITIVE_TYPES = ("class", "mask", "switch", "fragment", "both", "duplicate", "background")
"""What a false positive can be."""
ERROR_TYPES = (*FALSE_POSITIVE_TYPES, "missed")
_ABOUT_AN_INSTANCE = ("class", "mask", "switch", "fragment")


@dataclass(frozen=True, slots=True)
class ResultOutcome:
    """What became of one result."""

    kind: str
    """One of `FALSE_POSITIVE_TYPES`, or "true", or "ignored" if it lies on a crowd."""
    instance: int | None
    """Position in the video's instances: the one found, or the one that the error is about."""
    iou: float
    """With that instance; the largest of all where there is none."""


@dataclass(frozen=True, slots=True)
class InstanceOutcome:
    """How an instance was found. A score is None where nothing did."""

    found_score: float | None
    """Of the result that found it."""
    covered_score: float | None
    """Of the best class, mask, switch or fragment error about it."""
    best_iou: float
    """The largest with a result of its class."""

    @property
    def is_missed(self) -> bool:
        """Neither found nor nearly found."""
        return self.found_score is None and self.covered_score is None


@dataclass(frozen=True, slots=True)
class VideoErrors:
    """The outcomes of one video."""

    pairwise: PairwiseIoU
    results: list[ResultOutcome]
    """D, as in `pairwise`."""
    instances: list[InstanceOutcome]
    """G, as in `pairwise`; crowds are never missed."""


@dataclass(frozen=True)
class ErrorBreakdown:
    """How often every kind of error occurs, and what it costs."""

    iou_threshold: float
    ap: float
    """At this threshold, in 0..1; -1 where nothing is to be found."""
    counts: dict[str, int]
    """By kind, of results of every score."""
    costs: dict[str, float]
    """By kind: AP gained if it did not occur. They do not add up to the rest: errors interact."""
    cost_of_all_false: float
    """AP gained without any false positive."""
    cost_of_all_missing: float
    """AP gained if the instances without true positive were not asked for."""


def threshold_index(iou_threshold: float) -> int:
    """The position of an IoU threshold. Raises: ValueError unless it is one of the ten."""
    near = np.flatnonzero(np.isclose(IOU_THRESHOLDS, iou_threshold))
    if not near.size:
        raise ValueError(
            f"the IoU threshold of the error breakdown must be one of 0.50, 0.55, ..., 0.95, got "
            f"{iou_threshold}"
        )
    return int(near[0])


def find_errors(
    video: PairwiseIoU,
    matched: dict[int, tuple[np.ndarray, np.ndarray, Matches]],
    iou_threshold: float = 0.5,
) -> VideoErrors:
    """Tell what every result of a video is.

    Args:
        matched: from `PairwiseIoU.match`, the official range "all" first.
    """
    t = threshold_index(iou_threshold)
    partner = np.full(len(video.results), -1)
    for of_class, truths, matches in matched.values():
        taken = matches.partner[0, t]
        partner[of_class[taken >= 0]] = truths[taken[taken >= 0]]

    ious = np.where(video.is_crowd, 0.0, video.ious)  # a crowd is no error's instance
    is_same = video.result_classes[:, None] == video.instance_classes
    same, same_iou = _best(np.where(is_same, ious, 0.0))
    other, other_iou = _best(np.where(is_same, 0.0, ious))
    outcomes = []
    partners: list[int] = partner.tolist()
    for d, owner in enumerate(partners):
        if owner >= 0:
            kind = "ignored" if video.is_crowd[owner] else "true"
            outcomes.append(ResultOutcome(kind, owner, float(video.ious[d, owner])))
        elif same_iou[d] >= iou_threshold:
            outcomes.append(ResultOutcome("duplicate", same[d], same_iou[d]))
        elif other_iou[d] >= iou_threshold:
            outcomes.append(ResultOutcome("class", other[d], other_iou[d]))
        elif same_iou[d] >= BACKGROUND_IOU:
            outcomes.append(ResultOutcome(_main_loss(video, d, same[d]), same[d], same_iou[d]))
        elif other_iou[d] >= BACKGROUND_IOU:
            outcomes.append(ResultOutcome("both", other[d], other_iou[d]))
        else:
            largest = max(same_iou[d], other_iou[d])
            outcomes.append(ResultOutcome("background", None, largest))

    finder: list[float | None] = [None] * len(video.instances)
    covered: list[float | None] = [None] * len(video.instances)
    for result, outcome in zip(video.results, outcomes, strict=True):  # by descending score
        about = outcome.instance
        if about is None:
            continue
        if outcome.kind in ("true", "ignored") and finder[about] is None:
            finder[about] = result.score
        elif outcome.kind in _ABOUT_AN_INSTANCE and covered[about] is None:
            covered[about] = result.score
    best_iou = np.where(is_same, video.ious, 0.0).max(axis=0, initial=0.0).tolist()
    instances = [InstanceOutcome(*one) for one in zip(finder, covered, best_iou, strict=True)]
    return VideoErrors(video, outcomes, instances)


def _best(ious: np.ndarray) -> tuple[list[int], list[float]]:
    """Per row the position and the value of the largest IoU; 0 and 0.0 without columns."""
    if not ious.shape[1]:
        return [0] * len(ious), [0.0] * len(ious)
    return ious.argmax(axis=1).tolist(), ious.max(axis=1).tolist()


def _main_loss(video: PairwiseIoU, d: int, g: int) -> str:
    """Where most of the pixels are lost that keep result d from being instance g."""
    shared = video.shared_with_instances(d)  # [G, T]
    own = video.frame_areas(video.result_tracks[d])
    lost = own + video.frame_areas(video.instance_tracks[g]) - 2 * shared[g]
    elsewhere = np.delete(np.where(video.is_crowd[:, None], 0, shared), g, axis=0)
    is_elsewhere = (own > 0) & (2 * elsewhere.max(axis=0, initial=0) >= own)
    losses = {
        "mask": int(lost[~is_elsewhere & (own > 0)].sum()),
        "fragment": int(lost[own == 0].sum()),
        "switch": int(lost[is_elsewhere].sum()),
    }
    return max(losses, key=losses.__getitem__)


def break_down(videos: Iterable[VideoErrors], iou_threshold: float = 0.5) -> ErrorBreakdown:
    """Count the errors of all videos, in ascending order of their ids, and price them."""
    errors = list(videos)
    counts = dict.fromkeys(ERROR_TYPES, 0)
    for video in errors:
        for outcome in video.results:
            if outcome.kind in counts:
                counts[outcome.kind] += 1
        counts["missed"] += sum(_is_missed(video, g) for g in range(len(video.instances)))
    base = _ap(errors, frozenset())
    costs = {
        kind: _ap(errors, frozenset([kind])) - base if base >= 0 else 0.0 for kind in ERROR_TYPES
    }
    without_false = _ap(errors, frozenset(["all false"]))
    without_missing = _ap(errors, frozenset(["all missing"]))
    return ErrorBreakdown(
        iou_threshold,
        base,
        counts,
        costs,
        without_false - base if base >= 0 else 0.0,
        without_missing - base if base >= 0 else 0.0,
    )


def _is_missed(video: VideoErrors, g: int) -> bool:
    return video.instances[g].is_missed and not video.pairwise.is_crowd[g]


def _ap(errors: list[VideoErrors], repaired: frozenset[str]) -> float:
    """AP over the classes at the threshold, as if errors of the `repaired` kinds did not occur."""
    num_instances: dict[int, int] = {}
    ranked: dict[int, list[tuple[float, bool]]] = {}
    for video in errors:
        instances = video.pairwise.instances
        for instance, outcome in zip(instances, video.instances, strict=True):
            is_asked_for = not instance.is_crowd
            if "missed" in repaired:
                is_asked_for &= not outcome.is_missed
            if "all missing" in repaired:
                is_asked_for &= outcome.found_score is not None
            if not instance.is_crowd:
                asked = num_instances.get(instance.category_id, 0)
                num_instances[instance.category_id] = asked + is_asked_for
        taken = {outcome.instance for outcome in video.results if outcome.kind == "true"}
        for result, became in zip(video.pairwise.results, video.results, strict=True):
            if became.kind == "ignored":
                continue
            is_true, category_id = became.kind == "true", result.category_id
            if not is_true and ("all false" in repaired or became.kind in repaired):
                if became.kind not in _ABOUT_AN_INSTANCE or "all false" in repaired:
                    continue
                if became.instance is None or became.instance in taken:
                    continue
                taken.add(became.instance)
                is_true = True
                category_id = instances[became.instance].category_id
            ranked.setdefault(category_id, []).append((result.score, is_true))
    values = []
    for category_id, total in num_instances.items():
        results = ranked.get(category_id, [])
        scores = np.array([score for score, _ in results], np.float64)
        are_true = np.array([true for _, true in results], bool)
        are_true = are_true[np.argsort(-scores, kind="stable")]
        # A class of which nothing is left to find still counts: right unless there are results.
        values.append(single_average_precision(are_true, total) if total else float(not results))
    return float(mean_of_valid(np.array(values)))
