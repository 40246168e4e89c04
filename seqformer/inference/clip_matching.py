"""Clip matching: overlapping clips through the model, their instances joined into tracks.

For videos in which one query cannot carry an object all the way. Two clips share frames; instances
whose masks agree there (soft IoU of the mask probabilities, one-to-one assignment) are one track,
whose class logits are averaged over its clips and whose mask logits over the clips of a frame. A
frame that no further clip will see is finished: its masks are compressed and nothing else of it is
kept. So memory follows the length of a clip. Frames go through the network once, whatever the
overlap: only the temporal sums and the instance stream belong to a clip.

Under VNext's rule a track is compared as every earlier clip saw it, and these overlaps are
averaged; see `EvalConfig.clip_rule`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from seqformer.boxes import cxcywh_to_xyxy
from seqformer.inference.mask_encoder import EncodingJob
from seqformer.inference.mask_rendering import compress_masks
from seqformer.inference.stream import StreamContext


def soft_mask_iou(a: Tensor, b: Tensor, frames: Tensor | None = None) -> Tensor:
    """IoU of mask probabilities, each over all shared frames together.

    Args:
        a: [N, F, h, w] probabilities; b: [n, F, h, w].
        frames: [N, F] bool, frames of `a` that count; None for all.

    Returns: [N, n], sum of products / (sum a + sum b - sum of products); 0 where nothing counts.
    """
    if frames is not None:
        a = a * frames[..., None, None]
        b_sums = frames.to(b.dtype) @ b.sum((-2, -1)).T  # [N, n]
    else:
        b_sums = b.sum((1, 2, 3))[None]
    common = a.flatten(1) @ b.flatten(1).T
    union = a.sum((1, 2, 3))[:, None] + b_sums - common
    return common / union.clamp(min=1e-6)


@dataclass(frozen=True)
class _PastClip:
    """What an earlier clip saw.

    Attributes:
        first: its first frame.
        tracks: numbers of its n tracks.
        masks: [n, F, h, w], their probabilities.
    """

    first: int
    tracks: list[int]
    masks: Tensor


@dataclass
class _Track:
    """An object that is followed from clip to clip.

    Attributes:
        number: its id, from 0 in order of appearance.
        class_logits: [K], summed over `num_clips` clips; probabilities under VNext's rule.
        masks: finished chunks of frames: number of the first, and their masks.
        boxes: number of a finished frame -> [4] pixels.
        has_pixels: whether any finished mask is not empty.
    """

    number: int
    class_logits: Tensor
    num_clips: int = 1
    masks: list[tuple[int, int, EncodingJob]] = field(default_factory=list)
    boxes: dict[int, np.ndarray] = field(default_factory=dict)
    has_pixels: bool = False

    def copy(self) -> _Track:
        return replace(self, masks=list(self.masks), boxes=dict(self.boxes))

    def forget_before(self, frame: int) -> None:
        self.masks = [m for m in self.masks if m[1] > frame]
        self.boxes = {t: box for t, box in self.boxes.items() if t >= frame}


@dataclass
class ClipMatcher:
    """The tracks so far, and the frames that further clips may still see.

    Attributes:
        tracks: all, in order of appearance.
        open: [N] positions in `tracks` of those with masks in open frames.
        first: number of the first open frame.
        logits: [N, F, h, w], mask logits summed over clips; boxes: [N, F, 4], (cx, cy, w, h)
            summed likewise; counts: [N, F], the number of clips.
        past: the clips that still share frames with a new one, under VNext's rule.
    """

    context: StreamContext
    tracks: list[_Track] = field(default_factory=list)
    open: list[_Track] = field(default_factory=list)
    first: int = 0
    logits: Tensor | None = None
    boxes: Tensor | None = None
    counts: Tensor | None = None
    num_tracks: int = 0
    past: list[_PastClip] = field(default_factory=list)

    def copy(self) -> ClipMatcher:
        """A copy that can be carried on without changing this one."""
        twins = {id(track): track.copy() for track in self.tracks}
        return replace(
            self,
            tracks=list(twins.values()),
            open=[twins[id(track)] for track in self.open],
            past=list(self.past),
            **{  # type: ignore[arg-type]
                name: None if value is None else value.clone()
                for name, value in (
                    ("logits", self.logits),
                    ("boxes", self.boxes),
                    ("counts", self.counts),
                )
            },
        )

    def add(
        self,
        first: int,
        class_logits: Tensor,
        logits: Tensor,
        boxes: Tensor,
        frame_size: tuple[int, int],
    ) -> None:
        """Join a clip's instances.

        Args:
            first: number of the clip's first frame, which no earlier clip started after.
            class_logits: [n, K].
            logits: [n, F, h, w] of the clip's frames; boxes: [n, F, 4].
            frame_size: (height, width) of the original frames.
        """
        self.finish_before(first, frame_size)
        num_new, num_frames = logits.shape[:2]
        if self.logits is None or self.boxes is None or self.counts is None:
            self.logits = logits.new_zeros(0, *logits.shape[1:])
            self.boxes = boxes.new_zeros(0, *boxes.shape[1:])
            self.counts = logits.new_zeros(0, num_frames)
        shared = self.counts.shape[1]
        pairs = self._matches(first, logits[:, :shared])
        rows = []
        for position in range(num_new):
            row = pairs.get(position)
            if row is None:
                track = _Track(self.num_tracks, class_logits[position])
                self.num_tracks += 1
                self.tracks.append(track)
                rows.append(len(self.open))
                self.open.append(track)
            else:
                track = self.open[row]
                track.class_logits = track.class_logits + class_logits[position]
                track.num_clips += 1
                rows.append(row)
        if self._is_vnext:
            numbers = [self.open[row].number for row in rows]
            self.past.append(_PastClip(first, numbers, logits.sigmoid()))
        index = torch.tensor(rows, dtype=torch.int64, device=logits.device)
        size = len(self.open), max(shared, num_frames)
        self.logits = _grown(self.logits, size).index_add_(
            0, index, _grown(logits, (num_new, size[1]))
        )
        self.boxes = _grown(self.boxes, size).index_add_(
            0, index, _grown(boxes, (num_new, size[1]))
        )
        ones = _grown(logits.new_ones(num_new, num_frames), (num_new, size[1]))
        self.counts = _grown(self.counts, size).index_add_(0, index, ones)

    @property
    def _is_vnext(self) -> bool:
        return self.context.config.clip_rule == "vnext"

    def _matches(self, first: int, logits: Tensor) -> dict[int, int]:
        """New instance -> open track; `logits` [n, F, h, w] of the shared frames from `first`."""
        assert self.logits is not None and self.counts is not None
        if not self.open or not logits.shape[1] or not len(logits):
            return {}
        if self._is_vnext:
            iou = self._mean_iou(first, logits.sigmoid())
        else:
            present = self.counts > 0
            mean = self.logits / self.counts.clamp(min=1)[..., None, None]
            iou = soft_mask_iou(mean.sigmoid(), logits.sigmoid(), present).cpu().numpy()
        threshold = self.context.config.match_threshold
        is_match = (iou > threshold) if self._is_vnext else (iou >= threshold) & (iou > 0)
        from scipy.optimize import linear_sum_assignment  # inference of whole videos needs no SciPy

        rows, columns = linear_sum_assignment(np.where(is_match, iou, 0), maximize=True)
        return {
            int(column): int(row)
            for row, column in zip(rows, columns, strict=True)
            if is_match[row, column]
        }

    def _mean_iou(self, first: int, masks: Tensor) -> np.ndarray:
        """[N, n], of every open track the mean of its overlaps with the new instances, one for each
        earlier clip that saw it in a shared frame.

        Args:
            masks: [n, F, h, w] probabilities in the shared frames from `first`.
        """
        row_of = {track.number: row for row, track in enumerate(self.open)}
        total = np.zeros((len(self.open), len(masks)))
        num_clips = np.zeros((len(self.open), 1))
        self.past = [clip for clip in self.past if clip.first + clip.masks.shape[1] > first]
        for clip in self.past:
            seen = clip.masks[:, first - clip.first :]
            iou = soft_mask_iou(seen, masks[:, : seen.shape[1]]).cpu().numpy()
            for number, overlaps in zip(clip.tracks, iou, strict=True):
                total[row_of[number]] += overlaps
                num_clips[row_of[number]] += 1
        return total / num_clips.clip(min=1)

    def finish_before(self, frame: int, frame_size: tuple[int, int]) -> None:
        """Compress the masks of open frames before `frame`; close tracks that have no others."""
        if self.logits is None or self.boxes is None or self.counts is None:
            self.first = frame
            return
        done = min(frame - self.first, self.counts.shape[1])
        to_pixels = self.boxes.new_tensor([frame_size[1], frame_size[0]] * 2)
        counts = self.counts[:, :done].clamp(min=1)
        boxes = cxcywh_to_xyxy(self.boxes[:, :done] / counts[..., None]).clamp(0, 1) * to_pixels
        xyxy = boxes.cpu().numpy()
        present = (self.counts > 0).cpu().numpy()
        for row, track in enumerate(self.open):
            frames = np.flatnonzero(present[row, :done])  # consecutive: clips without a gap
            if not len(frames):
                continue
            span = slice(int(frames[0]), int(frames[-1]) + 1)
            mean = self.logits[row, span] / self.counts[row, span, None, None].clamp(min=1)
            start = self.first + span.start
            for count, job in compress_masks(mean, frame_size, self.context.encoder):
                track.masks.append((start, start + count, job))
                track.has_pixels |= job.has_pixels
                start += count
            track.boxes |= {self.first + int(t): xyxy[row, t] for t in frames}
        staying = [row for row in range(len(self.open)) if present[row, done:].any()]
        self.open = [self.open[row] for row in staying]
        self.logits = self.logits[staying, done:]
        self.boxes = self.boxes[staying, done:]
        self.counts = self.counts[staying, done:]
        self.first = frame

    def forget_before(self, frame: int) -> None:
        """Drop finished masks before `frame`, and tracks that have no others."""
        for track in self.tracks:
            track.forget_before(frame)
        is_open = {id(track) for track in self.open}
        self.tracks = [t for t in self.tracks if t.masks or id(t) in is_open]


def _grown(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """[n, f, ...] -> [N, F, ...], zeros beyond."""
    grown = tensor.new_zeros(*size, *tensor.shape[2:])
    grown[: tensor.shape[0], : tensor.shape[1]] = tensor
    return grown
