"""What inference says about a video. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from seqformer.annotations.run_lengths import RLE, decode_mask

if TYPE_CHECKING:
    from seqformer.visualization.drawing import Colours

VIDEO_NAME_LENGTH = 10


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One (query, class) pair of a video: a track with a label.

    Attributes:
        query: index of the instance query, or number of the track in mode clips; detections that
            share it share their masks.
        class_index: output of the classifier.
        category_id: the same as a category of the annotation file.
        score: in 0..1.
        segmentations: T entries; None in every frame where the score is below `min_score`, and in
            frames without the track in mode clips.
        boxes_xyxy: [T, 4] float32, pixels of the original frame, from the box head (not the masks).
    """

    query: int
    class_index: int
    category_id: int
    score: float
    segmentations: tuple[RLE | None, ...]
    boxes_xyxy: np.ndarray

    def mask(self, frame: int) -> np.ndarray | None:
        """[h0, w0] bool of one frame, decoded now; None where there is no mask."""
        segmentation = self.segmentations[frame]
        return None if segmentation is None else decode_mask(segmentation)


@dataclass(frozen=True, kw_only=True)
class VideoPrediction:
    """All detections of a video, in the published order (grouped by query).

    Attributes:
        detections: at most `top_k`; not sorted by score across queries.
        num_frames: T.
        frame_size: (height, width) of the original frames.
        first_frame: number of the first of these frames in the video; above 0 only where a stream
            has forgotten what came before.
        names: category id -> name, as far as the checkpoint tells.
    """

    detections: tuple[Detection, ...]
    num_frames: int
    frame_size: tuple[int, int]
    first_frame: int = 0
    names: Mapping[int, str] = field(default_factory=dict)

    def draw(
        self,
        frames: Iterable[np.ndarray],
        min_score: float = 0.3,
        colours: Colours | None = None,
    ) -> list[np.ndarray]:
        """The frames that the prediction is about, with masks, boxes and labels on them.

        Args:
            frames: `num_frames` uint8 RGB [h0, w0, 3], from `first_frame` on.
            min_score: detections below it are left out.
            colours: keep one dict over the results of a stream for colours that stay.
        """
        from seqformer.visualization.drawing import draw_video

        return draw_video(frames, self.detections, self.names, min_score, colours)

    def to_supervision(self, frame: int, min_score: float = 0.0) -> Any:
        """One frame as `supervision.Detections`, for the tools of that package.

        Args:
            frame: 0 .. `num_frames` - 1.
            min_score: detections below it are left out, as are those without pixels in the frame.

        Returns: boxes around the masks, masks, class ids (categories), scores as confidence,
            queries as tracker ids, and names in `data["class_name"]`.
        Raises: ImportError when supervision is not installed; IndexError for another frame.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError("to_supervision needs the package: pip install supervision") from None
        if not 0 <= frame < self.num_frames:
            raise IndexError(f"frame {frame} is not in 0..{self.num_frames - 1}")
        drawn = [
            (detection, mask)
            for detection in self.detections
            if detection.score >= min_score
            and (mask := detection.mask(frame)) is not None
            and mask.any()
        ]
        if not drawn:
            return supervision.Detections.empty()
        masks = np.stack([mask for _, mask in drawn])
        detections = [detection for detection, _ in drawn]
        names = [self.names.get(d.category_id, f"class {d.category_id}") for d in detections]
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            confidence=np.array([d.score for d in detections], np.float32),
            class_id=np.array([d.category_id for d in detections]),
            tracker_id=np.array([d.query for d in detections]),
            data={"class_name": np.array(names)},
        )

    def entries(self, video_id: int, video_name: str) -> list[dict[str, Any]]:
        """The video's part of a results file.

        parity: `video_name` keeps the first ten characters of the first file name only
        (test_results_file.py::test_video_name_is_cut_to_ten_characters).
        """
        return [
            {
                "video_id": video_id,
                "video_name": video_name[:VIDEO_NAME_LENGTH],
                "score": detection.score,
                "category_id": detection.category_id,
                "segmentations": list(detection.segmentations),
            }
            for detection in self.detections
        ]
