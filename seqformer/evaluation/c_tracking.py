"""The sums of HOTA and IDF1 in C, straight from the text of the masks; with the AP, if asked for.

`hota.py` and `identity.py` are the definition, and answer where there is no compiler or a mask
cannot be read. The matches are the same: equal IoUs are decided in the same way.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from seqformer.evaluation.average_precision import Curves
from seqformer.evaluation.c_scorer import address, scorer
from seqformer.evaluation.c_scoring import CScoring, NotReadableError, Rules, curves_of
from seqformer.evaluation.groups import Groups
from seqformer.evaluation.hota import ALPHAS
from seqformer.evaluation.hota import SUMS as HOTA_SUMS
from seqformer.evaluation.identity import SUMS as IDENTITY_SUMS
from seqformer.evaluation.identity import THRESHOLD
from seqformer.evaluation.records import GroundTruth, Predictions
from seqformer.evaluation.tracking_sums import TrackingSums


def tracking_in_c(
    truth: GroundTruth, predictions: Predictions, threads: int = 1
) -> TrackingSums | None:
    """What every video and class contributes; None where the plain path must answer."""
    library = scorer()
    if library is None:
        return None
    groups = Groups.in_file_order(truth, predictions)
    given = (*[None] * 2, *[0] * 2, *[None] * 4)
    return _sums(library, truth, predictions, groups, threads, given, (None, None))


def all_in_c(
    truth: GroundTruth, predictions: Predictions, threads: int = 1
) -> tuple[Curves, TrackingSums] | None:
    """The AP's curves too, from masks that are read once; None as above."""
    library = scorer()
    if library is None:
        return None
    best, groups = Groups.of(truth, predictions), Groups.in_file_order(truth, predictions)
    rules = Rules.of(truth, best)
    rows = np.full(len(predictions), -1, np.int64)
    rows[best.results] = best.rank
    rows = rows[groups.results]
    edges = np.ascontiguousarray(best.bounds[:, 2:])
    given = (*rules.of_instances(), *rules.of_matching(), address(rows), address(edges))
    written = address(rules.flags), address(rules.is_ignored)
    sums = _sums(library, truth, predictions, groups, threads, given, written)
    if sums is None:
        return None
    return curves_of(library, truth, predictions, rules.matched(best)), sums


def _sums(
    library: ctypes.CDLL,
    truth: GroundTruth,
    predictions: Predictions,
    groups: Groups,
    threads: int,
    given: tuple[Any, ...],
    written: tuple[int | None, ...],
) -> TrackingSums | None:
    """`track_groups` for all groups. The last two arguments are the AP's, or empty."""
    frames = _video_lengths(truth, predictions)[groups.video]
    hota = np.zeros((len(frames), len(HOTA_SUMS), len(ALPHAS)))
    identity = np.zeros((len(frames), len(IDENTITY_SUMS)))
    try:
        CScoring(library, truth, predictions, groups, threads).run(
            library.track_groups,
            (*given, address(frames), len(ALPHAS), address(ALPHAS), THRESHOLD),
            (*written, address(hota), address(identity)),
        )
    except NotReadableError:
        return None
    videos, categories = sorted(truth.videos), sorted(truth.categories)
    return TrackingSums(videos, categories, groups.video, groups.category, hota, identity)


def _video_lengths(truth: GroundTruth, predictions: Predictions) -> np.ndarray:
    """Frames of every video, in ascending order of ids; of its longest track if it is not told."""
    videos = np.array(sorted(truth.videos), np.uint64)
    lengths = np.zeros(len(videos), np.int64)
    tracks = [(one.video_id, len(one.segmentations)) for one in truth.instances]
    own = np.array(tracks, np.uint64).reshape(-1, 2)
    np.maximum.at(lengths, np.searchsorted(videos, own[:, 0]), own[:, 1].astype(np.int64))
    places = np.searchsorted(videos, predictions.video_ids)
    np.maximum.at(lengths, places, predictions.lengths())
    for place, video_id in enumerate(videos.tolist()):
        lengths[place] = truth.lengths.get(video_id, lengths[place])
    return lengths
