"""Inference by clip matching, for frames as they come: clips run, and their tracks as results."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from seqformer.annotations.run_lengths import RLE
from seqformer.devices import to_device
from seqformer.inference.clip_matching import ClipMatcher
from seqformer.inference.frame_store import FrameStore
from seqformer.inference.mask_rendering import mask_logits
from seqformer.inference.network import ChunkCopy, FrameChunk
from seqformer.inference.prediction import Detection, VideoPrediction
from seqformer.inference.stream import StreamContext, StreamLimits, VideoStream
from seqformer.model import TemporalPool
from seqformer.model.full_float32 import full_float32


class ClipStream(VideoStream):
    """Inference by clip matching, for frames as they come."""

    def __init__(self, context: StreamContext, limits: StreamLimits) -> None:
        super().__init__(context, limits)
        self._matcher = ClipMatcher(context)
        self._segments: list[tuple[int, int, TemporalPool]] = []  # first frame, one past, sums
        self._store = FrameStore(limits.memory_mib << 20)
        self._next_start = self._done = 0  # of the next clip; one past the last clip's end
        self._is_vnext = context.config.clip_rule == "vnext"

    @torch.inference_mode()
    def _absorb(self, chunk: FrameChunk, first: int) -> None:
        stop = first + len(chunk.boxes)
        config = self.context.config
        for start, end in self._spans(first, stop):
            pool = chunk.pool(start - first, end - first)
            self._segments.append((start, end, pool))
        self._store.append(ChunkCopy(chunk, first).result())
        while self._next_start + config.clip_length <= stop:
            start = self._next_start
            self._run_clip(self._matcher, start, start + config.clip_length)
            self._done = start + config.clip_length
            self._next_start = start + config.clip_stride
            needed = start + 1 if self._is_vnext else self._next_start
            self._store.forget_before(needed)
            self._segments = [s for s in self._segments if s[1] > needed]
            if self.limits.window is not None:
                self._matcher.forget_before(self._done - self.limits.window)

    def _spans(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut first..stop at the frames where clips start or end, and where a pool is full; where
        the last clip begins is not known before the end, so VNext's rule needs every frame for
        itself."""
        stride, length = self.context.config.clip_stride, self.context.config.clip_length
        start = first
        for frame in range(first + 1, stop + 1):
            is_border = frame % stride == 0 or (frame >= length and (frame - length) % stride == 0)
            is_border |= frame % self.context.pooled_frames == 0
            if is_border or frame == stop or self._is_vnext:
                yield start, frame
                start = frame

    def _run_clip(self, matcher: ClipMatcher, start: int, stop: int) -> None:
        pools = [pool for a, b, pool in self._segments if start <= a and b <= stop]
        pool = pools[0]
        for other in pools[1:]:
            pool = pool.merge(other)
        class_logits, mask_params = self.context.network.instances(pool)
        scores = self.context.scores(class_logits)
        if self._is_vnext:
            queries = self.context.best_queries(scores)
        else:
            queries = list(self.context.best_classes(class_logits))
        chosen = to_device(queries, class_logits, torch.int64)
        chunks = list(self._store.read(start, stop))
        logits = [
            mask_logits(
                data,
                queries,
                mask_params[chosen],
                self._sizes.network,
                self.context.network.mask_stride,
            )
            for data in chunks
        ]
        boxes = np.concatenate([data.boxes[:, queries] for data in chunks])
        with full_float32():
            matcher.add(
                start,
                (scores if self._is_vnext else class_logits)[chosen],
                torch.cat(logits, dim=1),
                to_device(boxes, class_logits, torch.float32).transpose(0, 1),
                self._sizes.last,
            )

    @torch.inference_mode()
    def tracks(self, last: int | None = None) -> VideoPrediction:
        """See `VideoStream.tracks`. Frames after the last whole clip make a shorter one, or under
        VNext's rule a whole one that begins earlier."""
        self._check_any()
        self.flush()
        matcher = self._matcher.copy()
        if self._done < self.num_frames:
            start = self._next_start
            if self._is_vnext:
                start = max(0, self.num_frames - self.context.config.clip_length)
            self._run_clip(matcher, start, self.num_frames)
        matcher.finish_before(self.num_frames, self._sizes.last)
        first = self._first_drawn(last)
        matcher.forget_before(first)
        return VideoPrediction(
            detections=tuple(self._detections(matcher, first)),
            num_frames=self.num_frames - first,
            frame_size=self._sizes.last,
            first_frame=first,
            names=self.context.names(),
        )

    def _labels(self, mean: Tensor) -> dict[int, list[tuple[int, float]]]:
        """Track -> its labels, from the mean logits or probabilities [N, K] of all tracks."""
        scores = mean if self._is_vnext else self.context.scores(mean)
        if self.context.config.label_rule == "best_pairs":
            return self.context.best_pairs(scores)
        return self.context.classes_above(scores, list(range(len(scores))))

    def _detections(self, matcher: ClipMatcher, first: int) -> Iterator[Detection]:
        """The tracks and their labels, grouped and ordered as in whole-video inference."""
        tracks = matcher.tracks
        if not tracks:
            return
        mean = torch.stack([track.class_logits / track.num_clips for track in tracks])
        num_frames = self.num_frames - first
        for position, classes in self._labels(mean).items():
            track = tracks[position]
            if not track.has_pixels:
                continue
            masks: list[RLE | None] = [None] * num_frames
            for start, _, job in track.masks:
                for offset, rle in enumerate(job.result()):
                    if start + offset >= first:
                        masks[start + offset - first] = rle
            boxes = np.zeros((num_frames, 4), np.float32)
            for frame, box in track.boxes.items():
                boxes[frame - first] = box
            for class_index, score in classes:
                is_drawn = score >= self.context.config.min_score
                yield Detection(
                    query=track.number,
                    class_index=class_index,
                    category_id=self.context.category_id(class_index),
                    score=score,
                    segmentations=tuple(masks) if is_drawn else (None,) * num_frames,
                    boxes_xyxy=boxes,
                )

    def close(self) -> None:
        """See `VideoStream.close`."""
        super().close()
        self._segments = []
        self._store.close()
