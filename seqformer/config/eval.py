"""The settings of inference, and of the command that evaluates."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from seqformer.config.model import BackboneName

Precision = Literal["fp32", "bf16", "fp16"]
InferencePrecision = Literal["fp32", "bf16", "fp16", "int8"]
KernelBackend = Literal["auto", "triton", "reference"]


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Inference on whole videos. Defaults as published."""

    short_side: int = 360
    """Frames are resized so that their shorter side has this many pixels."""
    max_long_side: int = 0
    """Largest length of the longer side in pixels, for which both shrink; 0: no bound, as published
    for videos."""
    top_k: int = 10
    """Largest (query, class) scores of a video that become results."""
    min_score: float = 0.001
    """Results below this score carry no masks."""
    label_rule: Literal["best_pairs", "above"] = "best_pairs"
    """Which labels become results. best_pairs: the `top_k` largest (query, class) scores, as
    published. above: of the `top_k` best queries, or of all tracks in mode clips, every class whose
    score is above `label_threshold`, as VNext has it."""
    label_threshold: float = 0.05
    """Smallest score of a label under the rule above, exclusive, in 0..1."""
    mode: Literal["whole", "clips"] = "whole"
    """whole: the video is one clip, as published. clips: overlapping clips whose tracks are joined,
    for videos that are too long or changeful for one query per object."""
    clip_length: int = 10
    """Frames of a clip in mode clips."""
    clip_stride: int = 5
    """Frames from the start of one clip to that of the next; the rest of it is shared."""
    clip_rule: Literal["mean_mask", "vnext"] = "mean_mask"
    """How clips are joined. mean_mask: tracks are compared by their mean masks and scored by their
    mean class logits; the last clip may be shorter. vnext: tracks are compared clip by clip and
    scored by their mean probabilities; the last clip begins earlier instead. VNext's numbers are
    --clip-length 5 --clip-stride 1 --match-threshold 0.01."""
    match_threshold: float = 0.1
    """Soft mask IoU on the shared frames from which two clips' instances are one track, in 0..1."""
    chunk_frames: int | None = None
    """Frames that go through the network together; by default what fits into the free memory, which
    is asked once per run and kept with it. Results are the same but for rounding."""
    precision: InferencePrecision = "fp32"
    """Of the per-frame part; positions, sums over time and instance queries stay fp32. int8, on
    CPUs: convolutions of a ResNet and, without AMX, large products of the transformer on 8-bit
    integers, whose ranges are measured on a few frames first."""

    def __post_init__(self) -> None:
        if not 1 <= self.clip_stride <= self.clip_length:
            raise ValueError(
                f"clip_stride must be in 1..clip_length so that clips share or touch frames, got "
                f"stride {self.clip_stride} and length {self.clip_length}"
            )
        for name in ("match_threshold", "label_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        if self.chunk_frames is not None and self.chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, got {self.chunk_frames}")
        if self.short_side < 1 or self.top_k < 1:
            raise ValueError(
                f"short_side and top_k must be at least 1, got {self.short_side} and {self.top_k}"
            )
        if self.max_long_side < 0:
            raise ValueError(f"max_long_side must be at least 0, got {self.max_long_side}")


STILLS = EvalConfig(short_side=800, max_long_side=1333, top_k=100, min_score=0.0)
"""Inference on single pictures, as published for COCO."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Run a SeqFormer on videos (--weights), or score and draw existing results (--results).

    eval.py --weights r50.pth --backbone resnet50 --images valid/JPEGImages --annotations
    valid.json --output results.json writes the results file, and prints the AP if the annotation
    file has annotations. Without --annotations, --images may be a video file, a folder of images or
    a folder of such folders; or a camera (camera:0) or an address (rtsp://, http://, udp://, ...),
    which is followed as frames come. eval.py --results results.json --annotations valid.json
    scores. With --stills every picture stands alone, and annotations and results are in COCO
    layout.

    How the weights run (--short-side and all below) is as their checkpoint says, which knows how
    its run validated, unless it is given here; for released files it is the defaults shown.
    """

    weights: Path | None = None
    """Checkpoint: a released file or one of ours."""
    backbone: BackboneName | None = None
    """Backbone of the weights; needed only where the file does not tell."""
    images: Path | None = None
    """Folder of the frames; without --annotations a folder of images or of folders, a video, a
    camera or an address."""
    annotations: Path | None = None
    """YouTube-VIS annotation file; may lack `annotations`, as that of the public validation set."""
    ap_only: bool = False
    """Leave HOTA, IDF1, identity switches and parts of the data out of the scores, which then take
    half the time."""
    stills: bool = False
    """Single pictures, not videos: --images is a picture or a folder of them, --annotations a file
    in COCO layout, results are COCO's, and the AP is that of COCOeval. Weights that do not say how
    they were validated see pictures of 800 pixels, at most 1333, and give 100 results, as published
    for COCO."""
    output: Path | None = None
    """Results file to write."""
    results: Path | None = None
    """Score or draw this results file (.json, or the .zip of a submission); runs no weights."""
    metrics: Path | None = None
    """Write the metrics here, as JSON."""
    long_videos: Path | None = None
    """File with ids or folders of the long videos (a JSON list, or one a line): they and the others
    are scored apart too, as by YouTube-VIS 2022."""
    long_from: int | None = None
    """Likewise, but videos of so many frames and more are the long ones."""
    report: Path | None = None
    """Folder for an HTML page with the AP, its failures and all videos; needs ground truth, and
    --images to show frames."""
    visualize: Path | None = None
    """Folder for videos with the results drawn on them."""
    visualize_format: Literal["mp4", "webm", "gif", "png"] = "mp4"
    """png writes a folder of pictures per video; of stills each is one picture in any case."""
    visualize_min_score: float = 0.3
    """Results below this score are not drawn."""
    visualize_truth: bool = False
    """Draw the ground truth of the annotation file beside the results, in the same colours."""
    visualize_fps: float | None = None
    """Frames per second of drawn videos; by default that of the video file, 6 for images."""
    upright: bool = False
    """Turn still frames as their EXIF orientation says; by default they are read as they are
    stored, as published, and the first with another orientation is named. Videos always are."""
    allow_broken: bool = False
    """Take video files that break off or have damaged frames as they are, with a warning, instead
    of counting them as failed."""
    allow_outside: bool = False
    """Let file names of the annotation file lead out of the folder --images."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one."""
    fresh: bool = False
    """Start over instead of continuing an interrupted run of the same command."""
    deterministic: bool = False
    """The same bits from the same command on the same machine; somewhat slower on a GPU."""
    compile: bool = False
    """Compile the network as one graph with torch.compile, for any frame size. It takes minutes at
    the start; on a CPU it is slower than without, on a GPU it has not been run."""
    backend: KernelBackend | None = None
    """Which implementation of the operators runs: auto, the fastest that fits; triton, the kernels
    and nothing else; reference, the plain definition. Not given, the environment variable
    SEQFORMER_KERNELS_BACKEND says it, else auto."""
    verbose: bool = False
    """Show where an error of a video came from."""
    threads: int | None = None
    """CPU threads per process on --device cpu; by default at most 4, and the same for any number of
    processes, because the last bits of results depend on it. With --results, threads of scoring, by
    default 1: the numbers are the same for any number."""
    decode_workers: int | None = None
    """Processes per rank that decode frames ahead; by default 4 on a GPU, 0 on a CPU."""
    encode_workers: int | None = None
    """Processes per rank that compress masks; by default 2 on a GPU, 0 on a CPU."""
    int8_ranges: Path | None = None
    """File of the ranges for --precision int8: read where it exists, else written once they are
    measured, on eight frames of --images."""
    memory_mib: int = 1024
    """Host memory for what drawing the masks of a video needs, about 0.12 MiB per 360p frame; the
    rest goes to a temporary file."""

    live_policy: Literal["newest", "all"] = "newest"
    """Frames of a camera or address that come too fast. newest: those in between are dropped. all:
    none is, and results come ever later."""
    live_frames: int | None = None
    """Stop after so many frames of a camera or address; by default when it ends, or at Ctrl-C."""
    live_reconnect: int | None = None
    """Where a camera or address breaks off or ends, try for so many seconds to open it again, and
    go on; by default its end is the end."""
    live_keep: int = 100
    """The results file has masks for so many of the latest frames of a camera or address."""

    network: EvalConfig = field(default_factory=EvalConfig)
    """How the weights run."""
    address: str | None = None
    """`images` as it was typed, where it is a camera or an address."""
    given: tuple[str, ...] = ()
    """Which fields of `network` were given."""

    def config_changes(self) -> dict[str, Any]:
        """Those fields and their values."""
        return {name: getattr(self.network, name) for name in self.given}
