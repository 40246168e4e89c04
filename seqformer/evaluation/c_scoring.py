"""The whole metric in C: masks are read, compared and matched group by group, straight from text.

A group is what one video has of one category. Groups do not depend on one another, so any number of
threads does them with the same results. A mask that the C code does not read is read here, and
given to it again in its usual form; if it cannot be read at all, the plain path says what is wrong.

Letters: G instances and D results in the order of the groups, D by descending score in each; A area
ranges, T IoU thresholds, R recall levels, K categories, M limits on results.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.mask_text import FileText, MaskText, mask_list
from seqformer.annotations.masks import Size, parse_mask
from seqformer.evaluation.average_precision import MAX_RESULTS, RECALL_LEVELS, Curves
from seqformer.evaluation.c_scorer import MASKS, UNUSUAL, address, scorer
from seqformer.evaluation.groups import Groups
from seqformer.evaluation.mask_files import WINDOW, ResultColumns, scan_list
from seqformer.evaluation.matching import AREA_RANGES, IOU_THRESHOLDS, THRESHOLDS
from seqformer.evaluation.records import GroundTruth, Predictions

_AREA_RANGES = np.array(list(AREA_RANGES.values()))
_CHUNKS = 8
"""Pieces of work per thread."""


class NotReadableError(Exception):
    """A mask cannot be read, or there is no memory: the plain path says more."""


@dataclass(frozen=True)
class Matched:
    """What became of all results."""

    groups: Groups
    flags: np.ndarray
    """[D, A, T] uint8: 1 for a match, 2 more where the result is ignored."""
    truth_is_ignored: np.ndarray
    """[G, A] bool."""
    ious: np.ndarray | None
    """[sum of D * G over the groups], of each group [D, G]; None if they were not asked for."""


@dataclass(frozen=True)
class Rules:
    """What the matching of the AP is given, and room for its answer."""

    is_crowd: np.ndarray
    """[G] uint8."""
    areas: np.ndarray
    """[G] pixels; NaN where the masks tell."""
    flags: np.ndarray
    is_ignored: np.ndarray
    """See `Matched`."""

    @classmethod
    def of(cls, truth: GroundTruth, groups: Groups) -> Rules:
        """For the instances and results of the groups."""
        num_areas, num_thresholds = len(_AREA_RANGES), len(IOU_THRESHOLDS)
        instances = [truth.instances[i] for i in groups.instances]
        return cls(
            np.array([one.is_crowd for one in instances], np.uint8),
            np.array([one.area for one in instances], np.float64),  # None is NaN
            np.empty((len(groups.results), num_areas, num_thresholds), np.uint8),
            np.empty((len(groups.instances), num_areas), np.uint8),
        )

    def of_instances(self) -> tuple[Any, ...]:
        """Arguments `is_crowd` and `areas` of the C code."""
        return address(self.is_crowd), address(self.areas)

    def of_matching(self) -> tuple[Any, ...]:
        """Arguments from `num_areas` to `thresholds`."""
        counts = len(_AREA_RANGES), len(IOU_THRESHOLDS)
        return (*counts, address(_AREA_RANGES), address(THRESHOLDS))

    def matched(self, groups: Groups, ious: np.ndarray | None = None) -> Matched:
        """The answer, once the C code has written it."""
        return Matched(groups, self.flags, self.is_ignored.astype(bool), ious)


class CScoring:
    """Results and ground truth on their way through the C code."""

    def __init__(
        self,
        library: ctypes.CDLL,
        truth: GroundTruth,
        predictions: Predictions,
        groups: Groups,
        threads: int = 1,
    ) -> None:
        self.library, self.truth, self.predictions = library, truth, predictions
        self.groups, self.threads = groups, threads
        self.kept: list[FileText] = []
        """Texts that were made here; the C code reads them."""
        self.instance_masks = np.zeros(len(groups.instances), MASKS)
        self.result_masks = np.zeros(len(groups.results), MASKS)
        for g in range(len(groups.instances)):
            self._convert(0, g)
        source = predictions.source
        if isinstance(source, ResultColumns):
            spans = source.spans[predictions.numbers[groups.results]]
            self.result_masks["text"] = spans["start"].astype(np.uint64) + np.uint64(
                source.file.address
            )
            self.result_masks["size"] = spans["stop"] - spans["start"]
            self.result_masks["frames"] = spans["frames"]
            for d in np.flatnonzero(spans["flags"] & UNUSUAL).tolist():
                self._convert(1, d)
        else:
            for d in range(len(groups.results)):
                self._convert(1, d)

    def match(self, floor: float, with_ious: bool = False) -> Matched:
        """Compare all groups.

        Args:
            floor: an IoU that cannot reach it is given as 0.

        Raises: NotReadableError.
        """
        groups, rules = self.groups, self.rules()
        bounds = groups.bounds
        pairs = (bounds[:, 1] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 2])
        iou_first = np.concatenate([[0], np.cumsum(pairs)]).astype(np.int64)
        ious = np.empty(int(iou_first[-1])) if with_ious else None
        self.run(
            self.library.score_groups,
            (*rules.of_instances(), floor, *rules.of_matching()),
            tuple(address(a) for a in (rules.flags, rules.is_ignored, ious, iou_first)),
        )
        return rules.matched(groups, ious)

    def rules(self) -> Rules:
        """What matching asks of these instances and results."""
        return Rules.of(self.truth, self.groups)

    def run(
        self,
        function: Callable[..., int],
        given: tuple[Any, ...],
        written: tuple[int | None, ...],
    ) -> None:
        """Let a function of `scorer.c` do all groups.

        Args:
            function: `score_groups` or `track_groups`.
            given: its arguments between the masks and what it writes.
            written: addresses of what it writes.

        Raises: NotReadableError.
        """
        mapped = self._mapped()
        arrays = (self.groups.bounds, self.instance_masks, self.result_masks)

        def do(first: int, stop: int) -> None:
            failed = np.zeros(2, np.int64)
            tried: tuple[int, int] | None = None
            while first < stop:
                first = function(
                    first,
                    stop,
                    *map(address, arrays),
                    *given,
                    *written,
                    address(mapped),
                    len(mapped),
                    WINDOW,
                    address(failed),
                )
                if first < stop:
                    what, number = failed.tolist()
                    if what > 1 or tried == (what, number):
                        raise NotReadableError
                    tried = what, number
                    self._convert(what, number, must_read=True)

        self._share(do, len(self.groups.bounds))

    def _mapped(self) -> np.ndarray:
        """Address and bytes of mapped files, [files, 2]."""
        texts = [i.segmentations for i in self.truth.instances[:1]]
        files = [text.file for text in texts if isinstance(text, MaskText)]
        if isinstance(self.predictions.source, ResultColumns):
            files.append(self.predictions.source.file)
        rows = [(file.address, len(file.array)) for file in files if file.is_mapped]
        return np.array(rows, np.int64).reshape(-1, 2)

    def _share(self, do: Callable[[int, int], None], count: int) -> None:
        """Call `do` for all of 0..count - 1, in pieces on several threads."""
        if self.threads <= 1 or count < 2:
            do(0, count)
            return
        from concurrent.futures import ThreadPoolExecutor

        edges = np.linspace(0, count, self.threads * _CHUNKS + 1).astype(int).tolist()
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(do, edges[:-1], edges[1:]))

    def _convert(self, what: int, number: int, must_read: bool = False) -> None:
        """Give the masks of an instance (0) or result (1) to the C code.

        Args:
            must_read: they were not read as they are.

        Raises: NotReadableError.
        """
        rows = (self.instance_masks, self.result_masks)[what]
        if what:
            position = int(self.groups.results[number])
            masks = self.predictions.masks(position)
            video_id = int(self.predictions.video_ids[position])
        else:
            instance = self.truth.instances[self.groups.instances[number]]
            masks, video_id = instance.segmentations, instance.video_id
        text = masks if isinstance(masks, MaskText) else None if must_read else scan_list(masks)
        if text is None or must_read or text.is_unusual:
            text = self._usual_form(mask_list(masks), self.truth.videos[video_id])
        if text.file is not getattr(self.predictions.source, "file", None):
            self.kept.append(text.file)
        rows[number] = (text.file.address + text.start, text.stop - text.start, len(text), 0)

    def _usual_form(self, masks: list[Any], canvas: Size | None) -> MaskText:
        """The same masks as null or compressed text. Raises: NotReadableError."""
        try:
            parsed = [parse_mask(mask, canvas) for mask in masks]
        except InvalidMaskError as error:
            raise NotReadableError from error
        text = scan_list([size and {"size": [*size], "counts": c} for size, c in parsed])
        if text is None:
            raise NotReadableError
        return text


def curves_of(
    library: ctypes.CDLL, truth: GroundTruth, predictions: Predictions, matched: Matched
) -> Curves:
    """Precision and recall of all categories."""
    groups, num_categories = matched.groups, len(truth.categories)
    num_thresholds, num_areas = len(IOU_THRESHOLDS), len(_AREA_RANGES)
    num_instances = np.zeros((num_categories, num_areas), np.int64)
    spans = np.diff(groups.bounds.reshape(-1, 2), axis=1).reshape(-1, 2)  # [N, 2] G, D
    instance_category = np.repeat(groups.category, spans[:, 0])
    np.add.at(num_instances, instance_category, ~matched.truth_is_ignored)
    category = np.repeat(groups.category, spans[:, 1])
    scores = predictions.scores[groups.results]
    order = np.lexsort((-scores, category))  # stable: in ascending order of the videos
    first = np.searchsorted(category[order], np.arange(num_categories + 1)).astype(np.int64)
    longest = int(np.diff(first).max(initial=0))
    shape = (num_thresholds, num_categories, num_areas, len(MAX_RESULTS))
    recall = np.empty(shape)
    precision = np.empty((shape[0], len(RECALL_LEVELS), *shape[1:]))
    score_at = np.empty_like(precision)
    room, places = np.empty(longest + 1), np.empty(longest + 1, np.int64)
    library.accumulate(
        num_categories,
        *map(address, (order, first, matched.flags, scores, groups.rank)),
        num_areas,
        num_thresholds,
        address(num_instances),
        len(RECALL_LEVELS),
        address(RECALL_LEVELS),
        len(MAX_RESULTS),
        address(limits := np.array(MAX_RESULTS, np.int64)),
        *map(address, (precision, score_at, recall, room, places)),
    )
    del limits
    return Curves(precision, recall, score_at, num_instances[:, 0])


def c_scoring(
    truth: GroundTruth, predictions: Predictions, groups: Groups, threads: int = 1
) -> CScoring | None:
    """The ground truth and results in C; None where there is no compiler.

    Raises: NotReadableError.
    """
    library = scorer()
    if library is None:
        return None
    return CScoring(library, truth, predictions, groups, threads)
