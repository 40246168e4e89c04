"""Whole-video inference: normalised frames to class logits, boxes and the masks of the output
queries. The published formulation draws all queries in all layers, always in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from bench.baselines import original
from bench.baselines.published import published_inference
from bench.suite.model_cost import HALVES, inference_cost
from bench.suite.model_inputs import TINY, ModelSize, model_of, video
from bench.suite.ours import NUM_OUTPUT_QUERIES, our_inference
from bench.suite.rounding import tf32
from bench.suite.schema import Call, Case, Side, Size
from seqformer.inference.int8 import rest_of_int8
from seqformer.model import inference_copy
from seqformer.model.int8_products import why_not_available
from seqformer.model.int8_ranges import measure_ranges

SHORT = ModelSize(frames=10, instances=0)
WHOLE_VIDEO = {"frames": 36, "height": 360, "width": 640, "instances": 0}
"""A video of the YouTube-VIS validation set."""
MASK_TOLERANCE = 1e-3
"""Of mask logits, which come from pixel coordinates times generated weights and cancel."""


def cases(size: Size) -> Iterator[Case]:
    if size == "smoke":
        yield inference_case(TINY)
        yield inference_case(TINY, "bfloat16")
    elif size == "cpu":
        yield inference_case(SHORT)
        yield inference_case(SHORT, "bfloat16")
        yield inference_case(ModelSize(**WHOLE_VIDEO), rounds=2)
        yield inference_case(ModelSize(**WHOLE_VIDEO), "bfloat16", rounds=2)
    else:
        video36 = ModelSize(**WHOLE_VIDEO)
        yield inference_case(video36, "bfloat16")
        yield inference_case(video36)
        yield inference_case(video36, "float16")
        yield inference_case(ModelSize(backbone="swin_l", **WHOLE_VIDEO), "bfloat16")


def inference_case(size: ModelSize, dtype: str = "float32", rounds: int = 5) -> Case:
    """One video through one model."""
    sides = [
        Side(name="ours", build=partial(_ours, size, dtype)),
        Side(name="published", build=partial(_published, size, dtype)),
    ]
    if size.backbone == "resnet50" and size.overrides == ():
        build = partial(_public, size, dtype)
        sides.append(Side(name="public", build=build, available=original.is_available))
    if size == SHORT and dtype == "bfloat16":
        sides.append(Side(name="int8", build=partial(_int8, size, dtype), available=_has_int8))
    return Case(
        name=f"inference {size.backbone} T={size.frames} {size.height}x{size.width} {dtype}",
        op="inference",
        group="model",
        direction="forward",
        dtype=dtype,
        shapes={k: v for k, v in size.shapes().items() if k != "N"},
        cost=inference_cost(size, dtype),
        units=("frames", size.frames),
        sides=tuple(sides),
        rounds=rounds,
        tolerance=MASK_TOLERANCE if dtype == "float32" else None,
    )


def _has_int8(device: torch.device) -> bool:
    return device.type == "cpu" and why_not_available() is None


def _int8(size: ModelSize, dtype: str, device: torch.device) -> Call:
    """`--precision int8`, its ranges measured on the video itself."""
    model, images = model_of(size, device), video(size, device)
    ranges = measure_ranges(model, inference_copy(model), images.split(1, dim=1))
    model = inference_copy(model, rest_of_int8(), packs=True, ranges=ranges)
    images = images.to(rest_of_int8())

    def infer() -> dict[str, Tensor]:
        with tf32(False, False):
            return _output(*our_inference(model, images), dtype)

    return infer


def _ours(size: ModelSize, dtype: str, device: torch.device) -> Call:
    model = inference_copy(model_of(size, device), getattr(torch, dtype), packs=True)
    images = video(size, device).to(getattr(torch, dtype))

    def infer() -> dict[str, Tensor]:
        with tf32(False, False):
            class_logits, boxes, masks, queries = our_inference(model, images)
        return _output(class_logits, boxes, masks, queries, dtype)

    return infer


def _published(size: ModelSize, dtype: str, device: torch.device) -> Call:
    model = model_of(size, device).eval()
    images = video(size, device)

    def infer() -> dict[str, Tensor]:
        with tf32(False, dtype in HALVES):
            return _of_best_queries(*published_inference(model, images), dtype)

    return infer


def _public(size: ModelSize, dtype: str, device: torch.device) -> Call:
    model = original.PublicModel(size, device)
    model.module.eval()
    return lambda: _of_best_queries(*model.infer(), dtype)


def _of_best_queries(
    class_logits: Tensor, boxes: Tensor, masks: Tensor, dtype: str
) -> dict[str, Tensor]:
    """The output of a side that has drawn all queries."""
    queries = class_logits.amax(-1).topk(NUM_OUTPUT_QUERIES).indices
    return _output(class_logits, boxes, masks[queries], queries, dtype)


def _output(
    class_logits: Tensor, boxes: Tensor, masks: Tensor, queries: Tensor, dtype: str
) -> dict[str, Tensor]:
    """What sides must agree on. In half precision the best queries may be others, and their masks
    are left out."""
    output = {"class_logits": class_logits, "boxes": boxes}
    if dtype not in HALVES:
        output["masks"] = masks[queries.argsort()]
    return output
