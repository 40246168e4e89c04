"""A video that arrives frame by frame: exact whole-video inference in one pass, in bounded memory.

Backbone, encoder and all decoder layers of the box queries see one frame at a time (paper section
3.2); frames meet only in a temporal softmax per layer, whose running sums do not grow. So frames go
through in chunks, nothing of them stays but what drawing masks needs (`FrameStore`), and the
instance queries are computed from the sums whenever results are asked for: at the end, or at any
moment of a stream that has none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqformer.boxes import cxcywh_to_xyxy
from seqformer.config import EvalConfig
from seqformer.devices import to_device
from seqformer.inference.chunk_size import MOST_FRAMES
from seqformer.inference.frame_store import FrameStore
from seqformer.inference.mask_encoder import EncodingJob, MaskEncoder
from seqformer.inference.mask_rendering import compress_tracks, mask_logits
from seqformer.inference.network import ChunkCopy, FrameChunk, Network
from seqformer.inference.prediction import Detection, VideoPrediction
from seqformer.inference.resize import FrameSizes, check_frame, resize_frame
from seqformer.structures import ClassMap


@dataclass(frozen=True, kw_only=True)
class StreamLimits:
    """How much of the past a stream keeps for drawing. Scores count all frames in any case."""

    window: int | None = None
    """Masks are kept for at least this many latest frames; None for all frames."""
    memory_mib: int = 1024
    """Host memory for what drawing needs, about 0.12 MiB per 360x640 frame."""
    disk_mib: int | None = None
    """Disk for what exceeds it; None for as much as there is, 0 for none."""
    folder: Path | None = None
    """Where the temporary file is made; by default where the system has such files."""

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1 frame, got {self.window}")
        if self.memory_mib < 0 or (self.disk_mib or 0) < 0:
            raise ValueError(
                f"limits must not be negative, got {self.memory_mib} and {self.disk_mib} MiB"
            )

    def store(self) -> FrameStore:
        """An empty store with these limits."""
        disk = None if self.disk_mib is None else self.disk_mib << 20
        return FrameStore(self.memory_mib << 20, disk, self.folder)


@dataclass(frozen=True, kw_only=True)
class StreamContext:
    """What all streams of a `Predictor` share.

    Attributes:
        chunk_frames: that go through the network together.
        pooled_frames: that are summed up together.
    """

    network: Network
    config: EvalConfig
    chunk_frames: int
    pooled_frames: int = MOST_FRAMES["cpu"]
    classes: ClassMap | None = None
    encoder: MaskEncoder = field(default_factory=MaskEncoder)

    def category_id(self, class_index: int) -> int:
        """parity: without a class map the output index is written as it is, even 0 and 41, which
        no YouTube-VIS category has (test_predictor.py::test_index_is_category_id_without_map)."""
        return class_index if self.classes is None else self.classes.ids[class_index]

    def names(self) -> Mapping[int, str]:
        """Category id -> name, where the class map has one."""
        if self.classes is None:
            return {}
        named = zip(self.classes.ids, self.classes.names, strict=True)
        return {i: name for i, name in named if i >= 0 and name}

    def best_classes(self, class_logits: Tensor) -> dict[int, list[tuple[int, float]]]:
        """[Q, K] -> query: [(class, score), ...] of the queries that become results, both in score
        order: of the `top_k` best pairs, or of the `top_k` best queries all classes that are above
        the threshold; see `EvalConfig.label_rule`."""
        scores = self.scores(class_logits)
        if self.config.label_rule == "best_pairs":
            return self.best_pairs(scores)
        return self.classes_above(scores, self.best_queries(scores))

    def scores(self, class_logits: Tensor) -> Tensor:
        """[N, K] -> probabilities, 0 for outputs that stand for no category."""
        if self.classes is not None:
            known = torch.tensor([i >= 0 for i in self.classes.ids], device=class_logits.device)
            class_logits = class_logits.masked_fill(~known, float("-inf"))
        return class_logits.sigmoid()

    def best_queries(self, scores: Tensor) -> list[int]:
        """[Q, K] -> the `top_k` queries whose best class is best, in this order."""
        return scores.amax(1).topk(min(self.config.top_k, len(scores))).indices.tolist()

    def best_pairs(self, scores: Tensor) -> dict[int, list[tuple[int, float]]]:
        """[Q, K] -> query: [(class, score), ...] of the `top_k` best pairs, both in score order.

        parity: groups are in order of their first appearance among the sorted scores, so the list
        as a whole is not sorted (test_predictor.py::test_classes_of_a_query_stay_together).
        """
        num_classes = scores.shape[1]
        best, indices = scores.flatten().topk(min(self.config.top_k, scores.numel()))
        groups: dict[int, list[tuple[int, float]]] = {}
        for score, index in zip(best.tolist(), indices.tolist(), strict=True):
            class_index = index % num_classes
            if self.category_id(class_index) >= 0:
                groups.setdefault(index // num_classes, []).append((class_index, score))
        return groups

    def classes_above(
        self, scores: Tensor, queries: list[int]
    ) -> dict[int, list[tuple[int, float]]]:
        """Of some queries those with a class above `label_threshold`, and these classes."""
        groups: dict[int, list[tuple[int, float]]] = {}
        for query, row in zip(queries, scores[queries].tolist(), strict=True):
            above = [(k, score) for k, score in enumerate(row) if self._is_label(k, score)]
            if above:
                groups[query] = sorted(above, key=lambda label: -label[1])
        return groups

    def _is_label(self, class_index: int, score: float) -> bool:
        return score > self.config.label_threshold and self.category_id(class_index) >= 0


class VideoStream(ABC):
    """Frames in, tracks out. Use it in a `with` block, or call `close`."""

    def __init__(self, context: StreamContext, limits: StreamLimits) -> None:
        self.context, self.limits = context, limits
        self.num_frames = 0
        """Frames pushed so far."""
        self._sizes = FrameSizes()
        self._waiting: list[np.ndarray] = []
        self._pool: Any = None  # sums over all frames so far, where the mode keeps them

    def push(self, frame: np.ndarray) -> None:
        """Take the next frame, uint8 RGB [h0, w0, 3]; it is computed when `chunk_frames` wait.

        Raises: ValueError when the frame is no such thing or differs in shape from the first; the
            stream may go on with other frames.
        """
        frame = check_frame(frame, self.num_frames)
        config = self.context.config
        resized = resize_frame(frame, config.short_side, config.max_long_side)
        self.push_resized(resized, frame.shape[:2])

    def push_resized(self, frame: np.ndarray, original_size: tuple[int, int]) -> None:
        """`push` of a frame that went through `resize_frame` elsewhere."""
        self._sizes.see(original_size, frame.shape[:2])
        self.num_frames += 1
        self._waiting.append(frame)
        if len(self._waiting) >= self.context.chunk_frames:
            self.flush()

    def flush(self) -> None:
        """Compute the frames that wait."""
        while self._waiting:
            number, together = len(self._waiting), self.context.pooled_frames
            # What does not fill up a pool goes alone, as it does where chunks are of that size: for
            # an odd number of frames, products on a CPU have other last bits than for an even one.
            number -= number % together if number > together else 0
            chunk = self.context.network.frames(self._waiting[:number], self._pool)
            first = self.num_frames - len(self._waiting)
            self._waiting = self._waiting[number:]
            self._absorb(chunk, first)

    @abstractmethod
    def _absorb(self, chunk: FrameChunk, first: int) -> None:
        """Take in what the network says about the frames from number `first` on."""

    @abstractmethod
    def tracks(self, last: int | None = None) -> VideoPrediction:
        """Results for all frames pushed so far; the stream goes on afterwards.

        Args:
            last: draw only this many of the latest frames (of those that the window keeps).

        Raises: ValueError before the first frame, or for outputs that are not finite.
        """

    def finish(self) -> VideoPrediction:
        """`tracks`, then `close`."""
        try:
            return self.tracks()
        finally:
            self.close()

    def close(self) -> None:
        """Free what the stream keeps."""
        self._waiting = []

    def __enter__(self) -> VideoStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _first_drawn(self, last: int | None) -> int:
        kept = [n for n in (last, self.limits.window) if n is not None]
        return max(0, self.num_frames - min(kept)) if kept else 0

    def _check_any(self) -> None:
        if not self.num_frames:
            raise ValueError("the video has no frames")


class WholeVideoStream(VideoStream):
    """The published inference, the whole video as one clip: instance queries are the tracks."""

    def __init__(self, context: StreamContext, limits: StreamLimits) -> None:
        super().__init__(context, limits)
        self._store = limits.store()
        self._arriving: ChunkCopy | None = None

    @torch.inference_mode()
    def _absorb(self, chunk: FrameChunk, first: int) -> None:
        self._pool = chunk.merged_into(self._pool, self.context.pooled_frames)
        arriving = ChunkCopy(chunk, first)
        self._keep_arrived()  # the chunk before, while this one is computed
        self._arriving = arriving

    def _keep_arrived(self) -> None:
        if self._arriving is not None:
            arrived, self._arriving = self._arriving, None
            self._store.append(arrived.result())
            if self.limits.window is not None:
                self._store.forget_before(self._store.stop - self.limits.window)

    def tracks(self, last: int | None = None) -> VideoPrediction:
        """See `VideoStream.tracks`.

        parity: a query whose masks are empty in all frames is left out with all its classes, so
        there may be fewer than `top_k` (test_predictor.py::test_empty_query_is_left_out).
        """
        self._check_any()
        self.flush()
        self._keep_arrived()
        assert self._pool is not None
        class_logits, mask_params = self.context.network.instances(self._pool)
        groups = self.context.best_classes(class_logits)
        queries = list(groups)
        first = max(self._first_drawn(last), self._store.start)
        chosen = to_device(queries, mask_params, torch.int64)
        jobs, boxes = self._draw(queries, mask_params[chosen], first)
        detections = []
        for position, (query, classes) in enumerate(groups.items()):
            if not any(job.has_pixels for job in jobs[position]):
                continue
            segmentations = tuple(rle for job in jobs[position] for rle in job.result())
            detections += [
                Detection(
                    query=query,
                    class_index=class_index,
                    category_id=self.context.category_id(class_index),
                    score=score,
                    # parity: below min_score there is null in every frame
                    # (test_predictor.py::test_low_scores_carry_no_masks)
                    segmentations=segmentations
                    if score >= self.context.config.min_score
                    else (None,) * len(segmentations),
                    boxes_xyxy=boxes[:, position],
                )
                for class_index, score in classes
            ]
        return VideoPrediction(
            detections=tuple(detections),
            num_frames=len(boxes),
            frame_size=self._sizes.last,
            first_frame=first,
            names=self.context.names(),
        )

    @torch.inference_mode()
    def _draw(
        self, queries: list[int], mask_params: Tensor, first: int
    ) -> tuple[list[list[EncodingJob]], np.ndarray]:
        """Masks of N queries from frame `first` on, and their boxes [T, N, 4] in pixels."""
        jobs: list[list[EncodingJob]] = [[] for _ in queries]
        boxes = [torch.empty(0, len(queries), 4)]
        size = self._sizes.last
        to_pixels = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
        for data in self._store.read(first, self.num_frames):
            of_queries = torch.from_numpy(data.boxes[:, queries])
            boxes.append(cxcywh_to_xyxy(of_queries).clamp(0, 1) * to_pixels)
            if not queries:
                continue
            logits = mask_logits(
                data,
                queries,
                mask_params,
                self._sizes.network,
                self.context.network.mask_stride,
            )
            for own, more in zip(
                jobs, compress_tracks(logits, size, self.context.encoder), strict=True
            ):
                own += more
        return jobs, torch.cat(boxes).numpy()

    def close(self) -> None:
        """See `VideoStream.close`."""
        super().close()
        self._pool = self._arriving = None
        self._store.close()
