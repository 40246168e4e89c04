"""One video -> tracks with masks, scores and labels: inference for programs.

predictor = Predictor.from_checkpoint("r50.pth")
prediction = predictor.predict("dog.mp4")          # or a folder, an array, any iterable
with predictor.stream() as stream:                 # or frames as they come
    for frame in camera:
        stream.push(frame)
        show(stream.tracks(last=1))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import seqformer
from seqformer.config import BackboneName, EvalConfig, InferencePrecision, config_from_dict
from seqformer.data.video_sources import open_video
from seqformer.devices import choose_device
from seqformer.export import Description, GraphFormat, export_graph
from seqformer.export.graph import least_side
from seqformer.inference.calibration import frames_of, measured_ranges
from seqformer.inference.chunk_size import default_chunk_frames, pooled_frames
from seqformer.inference.clip_stream import ClipStream
from seqformer.inference.exported_network import ExportedNetwork
from seqformer.inference.int8 import check_int8
from seqformer.inference.mask_encoder import MaskEncoder
from seqformer.inference.network import FrameNetwork, Network
from seqformer.inference.prediction import VideoPrediction
from seqformer.inference.resize import check_frame, resize_frame
from seqformer.inference.stream import StreamContext, StreamLimits, VideoStream, WholeVideoStream
from seqformer.model import Checkpoint, Int8Ranges, model_from_checkpoint
from seqformer.model.int8_ranges import fingerprint
from seqformer.model.seqformer import SeqFormer
from seqformer.structures import ClassMap

DeviceName = Literal["auto", "cpu", "cuda"]


_NetworkKind = tuple[InferencePrecision, bool, Int8Ranges | None]


class Predictor:
    """A model ready for videos.

    Attributes:
        model: in eval mode, on `device`; None for an exported file, which is a graph and no model.
        classes: what the classifier's outputs stand for; None for released files, which do not say
            it: then the output index is the category id, as published.
        config: frame size, number of results, smallest score, mode, precision.
        limits: how much a video may keep in memory and on disk.
        ranges: of the model's numbers, for precision int8: what `calibrate` has measured, or
            `Int8Ranges.load(file)`.
        is_compiled: whether torch.compile makes one graph of what is computed per frame; set it
            before the first video.
        encoder: compresses masks; give one with workers to have it done in the background.
    """

    def __init__(
        self,
        model: SeqFormer | ExportedNetwork,
        classes: ClassMap | None = None,
        config: EvalConfig | None = None,
        device: DeviceName | str | torch.device = "auto",
        limits: StreamLimits | None = None,
    ) -> None:
        self.device = choose_device(device)
        self._exported = model if isinstance(model, ExportedNetwork) else None
        self.model = None if isinstance(model, ExportedNetwork) else model.eval().to(self.device)
        self.classes = classes
        self.config = config or EvalConfig()
        self.limits = limits or StreamLimits()
        self.ranges: Int8Ranges | None = None
        self.is_compiled = False
        self.encoder = MaskEncoder()
        self._network: tuple[_NetworkKind, FrameNetwork] | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        backbone: BackboneName | None = None,
        device: DeviceName | str | torch.device = "auto",
        classes: ClassMap | None = None,
        config: EvalConfig | None = None,
    ) -> Predictor:
        """Build the model that fits a checkpoint.

        Args:
            path: a released file or one of ours.
            backbone: what the file is believed to hold; checked.
            device: where to run.
            classes: instead of the checkpoint's own.
            config: instead of that of the training run; the published one for released files.

        Raises: FileNotFoundError; ValueError when file, backbone or classes do not fit together.
        """
        device = choose_device(device)
        model, checkpoint = model_from_checkpoint(path, backbone)
        classes = classes or checkpoint.classes
        if classes is not None and classes.num_classes != checkpoint.num_classes:
            raise ValueError(
                f"{path} has {checkpoint.num_classes} class outputs but the class map has "
                f"{classes.num_classes}; use the class map the weights were trained with"
            )
        return cls(model, classes, config or _trained_config(checkpoint), device)

    @classmethod
    def from_exported(
        cls,
        path: str | Path,
        device: DeviceName | str | torch.device = "auto",
        config: EvalConfig | None = None,
        run_native_code: bool = False,
    ) -> Predictor:
        """A predictor on a file that `export`, or `seqformer export`, wrote; classes and frame size
        are in it.

        Args:
            path: .pt2, or .onnx, which needs onnxruntime.
            device: where to run; "auto" is the CPU for ONNX.
            config: instead of that of the file; mode "whole" and precision "fp32" only.
            run_native_code: read a file of format "aoti" too. Its machine code runs with your
                rights as it is loaded: say so only for files that you made, or whose maker you
                trust.

        Raises: FileNotFoundError; ValueError naming the file when it is damaged, is no exported
            SeqFormer, or holds anything that could run code.
        """
        is_onnx = Path(path).suffix.lower() == ".onnx"
        device = choose_device("cpu" if is_onnx and device == "auto" else device)
        network = ExportedNetwork(path, device, run_native_code)
        described = network.description
        return cls(network, described.classes, config or described.config, device)

    def export(self, path: str | Path, graph_format: GraphFormat = "pt2") -> None:
        """Write the model for other programs; see docs/export.md.

        Raises: ValueError for an exported file itself, or when onnx or a compiler are missing;
            WriteError.
        """
        if self.model is None:
            raise ValueError("an exported file cannot be exported again; take its checkpoint")
        config = self.model.config
        state_shape = (config.num_decoder_layers, 1, config.num_queries, config.hidden_dim + 2)
        description = Description(
            version=seqformer.__version__,
            state_shape=state_shape,
            num_classes=config.num_classes,
            mask_stride=self.model.mask_stride,
            least_side=least_side(self.model),
            classes=self.classes,
            config=replace(self.config, mode="whole", precision="fp32", chunk_frames=None),
        )
        model = self.model if self.device.type == "cpu" else deepcopy(self.model).cpu()
        export_graph(model, description, Path(path), graph_format)

    def calibrate(self, frames: np.ndarray | Iterable[np.ndarray] | str | Path) -> None:
        """Measure the ranges of the model's numbers for precision int8, and keep them in `ranges`.

        Args:
            frames: as in `predict`. All of an array or iterable are used: eight do, of scenes like
                those to come. Of a folder or video file eight are taken.

        Raises: ValueError where there is no int8, no frame, or a number is not finite.
        """
        if self.model is None:
            raise ValueError("precision int8 is for checkpoints; an exported file is a graph")
        check_int8(self.model, self.device)
        given = frames_of([open_video(Path(frames))]) if isinstance(frames, str | Path) else frames
        sides = self.config.short_side, self.config.max_long_side
        checked = (check_frame(frame, index) for index, frame in enumerate(given))
        self.ranges = measured_ranges(self.model, (resize_frame(f, *sides) for f in checked))

    def predict(self, frames: np.ndarray | Iterable[np.ndarray] | str | Path) -> VideoPrediction:
        """Find the objects of one video, of any length.

        Args:
            frames: [T, h0, w0, 3] uint8 RGB, or T such frames (read one at a time), or a folder of
                images, or a video file.

        Raises: ValueError for no frames, frames of unequal shape, or outputs that are not finite.
        """
        with self.stream() as stream:
            for frame in _frames(frames):
                stream.push(frame)
            return stream.tracks()

    def predict_resized(
        self, frames: Iterable[tuple[np.ndarray, tuple[int, int]]]
    ) -> VideoPrediction:
        """`predict` of frames that went through `resize_frame` elsewhere, each with its original
        (height, width)."""
        with self.stream() as stream:
            for frame, original_size in frames:
                stream.push_resized(frame, original_size)
            return stream.tracks()

    def track(
        self,
        frames: np.ndarray | Iterable[np.ndarray] | str | Path,
        every: int = 1,
        last: int | None = 1,
        limits: StreamLimits | None = None,
    ) -> Iterator[VideoPrediction]:
        """Follow a video that need not have an end, and say every few frames what is known.

        Args:
            frames: as in `predict`.
            every: frames between results; the last one comes at the end in any case.
            last: frames that each result has masks for, counted from the newest; None for all that
                `limits` keep.
            limits: instead of the predictor's; by default only `last` frames are kept for drawing.
        """
        if every < 1:
            raise ValueError(f"every must be at least 1 frame, got {every}")
        limits = limits or replace(self.limits, window=last or self.limits.window)
        is_new = False
        with self.stream(limits) as stream:
            for frame in _frames(frames):
                stream.push(frame)
                is_new = stream.num_frames % every != 0
                if not is_new:
                    yield stream.tracks(last)
            if is_new or not stream.num_frames:
                yield stream.tracks(last)

    def stream(self, limits: StreamLimits | None = None) -> VideoStream:
        """A video to push frames into as they come; in the mode that `config` says."""
        kind = ClipStream if self.config.mode == "clips" else WholeVideoStream
        context = StreamContext(
            network=self.network,
            config=self.config,
            chunk_frames=self.config.chunk_frames or self.default_chunk_frames(),
            pooled_frames=pooled_frames(self.device, self.config),
            classes=self.classes,
            encoder=self.encoder,
        )
        return kind(context, limits or self.limits)

    @property
    def network(self) -> Network:
        """The model as `config.precision` wants it; made when first needed.

        Raises: ValueError where an exported file cannot do what `config` asks for, or where
            precision int8 has no ranges, or cannot be had on this CPU.
        """
        precision = self.config.precision
        if self.model is None:
            assert self._exported is not None
            if precision != "fp32" or self.config.mode != "whole":
                raise ValueError(
                    f"{self._exported.path} computes in fp32 and whole videos; for --precision "
                    f"{precision} and --mode {self.config.mode} take the checkpoint itself"
                )
            return self._exported
        ranges = self.ranges if precision == "int8" else None
        kind = precision, self.is_compiled, ranges
        if self._network is None or self._network[0] != kind:
            if ranges is not None and ranges.weights != fingerprint(self.model):
                raise ValueError(
                    "the ranges for int8 were measured with other weights; measure them anew "
                    "(predictor.calibrate, or another file for --int8-ranges)"
                )
            network = FrameNetwork(self.model, precision, self.device, self.is_compiled, ranges)
            self._network = kind, network
        return self._network[1]

    def default_chunk_frames(self) -> int:
        """Frames that go through together when `config.chunk_frames` does not say it."""
        # A graph sums up all frames that it is given: their number must not depend on threads.
        threads = torch.get_num_threads() if self._exported is None else 1
        return default_chunk_frames(self.device, self.config, threads)


def _frames(frames: np.ndarray | Iterable[np.ndarray] | str | Path) -> Iterable[np.ndarray]:
    return open_video(Path(frames)).frames() if isinstance(frames, str | Path) else frames


def _trained_config(checkpoint: Checkpoint) -> EvalConfig | None:
    """The frame size and so on that a checkpoint of ours was validated with."""
    settings: Any = checkpoint.extra.get("args")
    if isinstance(settings, dict) and "eval" in settings:
        try:
            return config_from_dict(EvalConfig, settings["eval"])
        except ValueError as error:
            raise ValueError(f"{checkpoint.path} has no proper settings: {error}") from None
    return None
