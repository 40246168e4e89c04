"""What of the results was not compared as it was meant: masks of other sizes, other frames.

The numbers stay those of the official evaluator, which skips a frame whose two masks differ in
size, and the frames that only one of the two tracks has. Results of half the frames can so have an
AP of 100; it is counted here, and said.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from seqformer.annotations.masks import Size
from seqformer.evaluation.records import Record
from seqformer.evaluation.track_iou import Track

logger = logging.getLogger(__name__)


@dataclass
class Differences:
    """Counts over all videos."""

    results: dict[str, list[str]] = field(default_factory=dict)
    """Kind -> the results with it."""
    frames: dict[str, int] = field(default_factory=dict)
    """Kind -> frames concerned."""

    def see_lengths(
        self,
        results: Sequence[Record],
        instances: Sequence[Record],
        length: int | None,
    ) -> None:
        """Compare the numbers of frames in one video.

        Args:
            length: of the video; None if the file does not tell, then the longest instance's.
        """
        lengths = [len(instance.segmentations) for instance in instances]
        if length is None:
            length = max(lengths, default=0)
        for record, own in zip(instances, lengths, strict=True):
            self._add("instances of the ground truth cover other frames", record, own - length)
        for record in results if length else ():
            own = len(record.segmentations)
            self._add("results cover fewer frames than their video", record, min(0, own - length))
            self._add("results cover frames that their video lacks", record, max(0, own - length))

    def see_sizes(
        self, records: Sequence[Record], tracks: Sequence[Track], canvas: Size | None
    ) -> None:
        """Compare the sizes of masks with that of their video."""
        if canvas is None:
            return
        for record, track in zip(records, tracks, strict=True):
            if track.size == canvas:
                continue
            other = sum(size not in (None, canvas) for size in track.sizes)
            self._add("results have masks of another size than their video", record, other)

    def _add(self, kind: str, record: Record, frames: int) -> None:
        if frames:
            self.results.setdefault(kind, []).append(record.where)
            self.frames[kind] = self.frames.get(kind, 0) + abs(frames)

    def tell(self) -> None:
        """One warning per kind."""
        for kind, places in self.results.items():
            logger.warning(
                "%d %s, in %d frames; these frames are not compared, as officially (first: %s)",
                len(places),
                kind,
                self.frames[kind],
                places[0],
            )
