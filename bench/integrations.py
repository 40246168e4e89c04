"""Models of transformers beside themselves with our operator: agreement, and time on one thread.

    pip install transformers kernels
    python -m bench.integrations                          # published sizes, minutes
    python -m bench.integrations --size small DFine       # seconds

Weights are random, inputs too, and nothing is downloaded. Every round runs both sides, so that a
busy machine disturbs both; the seconds are those of the process, of which the least counts. A step
is forward and backward, without an optimizer. Differences are of float32, each as a share of the
largest value of its tensor, gradients those of every parameter and of the images; beside them
stands how far the library's own path is from itself in float64. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.baselines import families
from kernels import integrations

Size = Literal["small", "published"]
SIZES = {"small": (96, 128), "published": (480, 640)}
IMAGE_SIZES = {"RfDetr": (512, 512), "RTDetr": (640, 640), "RTDetrV2": (640, 640)}
"""Pixels, height and width; of published models that are made for one size."""
MASKED = 1e30
"""Values from here on stand for nothing: anchors outside the image are the largest float."""
NOTHING = 1e-7
"""A gradient this small beside the model's largest is rounding (a bias before a softmax)."""


def step(model: nn.Module, given: families.Inputs) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of images and parameters."""
    given = {n: x.requires_grad_() if x.is_floating_point() else x for n, x in given.items()}
    outputs = [x for _, x in families.floats(model(**given))]
    loss = sum(x.clamp(-50, 50).square().mean() for x in outputs if x.requires_grad)
    leaves = [x for x in given.values() if x.requires_grad]
    leaves += [x for x in model.parameters() if x.requires_grad]
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [x.detach() for x in outputs], [torch.zeros(1) if g is None else g for g in grads]


def difference(first: Sequence[Tensor], second: Sequence[Tensor], floor: float = 0.0) -> float:
    """The largest, each as a share of the largest value of its tensor.

    Args:
        floor: tensors that are smaller than this share of the largest one do not count.
    """
    counted = [y.abs() < MASKED for y in second]
    tops = [
        float(y[c].abs().amax()) if c.any() else 0.0 for y, c in zip(second, counted, strict=True)
    ]
    worst = 0.0
    for x, y, c, top in zip(first, second, counted, tops, strict=True):
        if top > floor * max(tops):
            worst = max(worst, float((x.double() - y.double())[c].abs().amax()) / top)
    return worst


def seconds(call: Callable[[], Any]) -> float:
    """Of the process."""
    start = time.process_time()
    call()
    return time.process_time() - start


def row(name: str, size: Size, rounds: int) -> str:
    """One family's line of the table."""
    model = families.build(name, small=size == "small")
    height, width = IMAGE_SIZES.get(name, SIZES[size]) if size == "published" else SIZES[size]
    given = families.inputs(name, height, width)

    def infer() -> None:
        with torch.no_grad():
            model(**given)

    def train() -> None:
        step(model, given)

    theirs = step(model, given)
    with integrations.use_in_transformers(model):
        ours = step(model, given)
    exact = copy.deepcopy(model).double()
    double = {n: x.detach().double() if x.is_floating_point() else x for n, x in given.items()}
    truth = step(exact, double)
    del exact
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for kind, call in (("inference", infer), ("step", train)):
            times.setdefault((kind, "theirs"), []).append(seconds(call))
            with integrations.use_in_transformers(model):
                times.setdefault((kind, "ours"), []).append(seconds(call))
    cells = [name, f"{height}x{width}"]
    for part, floor in ((0, 0.0), (1, NOTHING)):
        own = difference(theirs[part], truth[part], floor)
        cells.append(f"{difference(ours[part], theirs[part], floor):.0e} ({own:.0e})")
    for kind in ("inference", "step"):
        before, after = (min(times[kind, side]) for side in ("theirs", "ours"))
        cells.append(f"{before:.2f} s, {after:.2f} s: {before / after:.1f} times")
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.integrations", description=__doc__)
    parser.add_argument("families", nargs="*", help="of " + ", ".join(families.FAMILIES))
    parser.add_argument("--size", choices=list(SIZES), default="published")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.families if name not in families.FAMILIES]
    if unknown:
        parser.error(f"no family {', '.join(unknown)}; choose of {', '.join(families.FAMILIES)}")
    torch.set_num_threads(1)
    print(f"transformers {version('transformers')}, torch {torch.__version__}, one thread\n")
    print(
        "| family | image | outputs differ (theirs from float64) | gradients differ | "
        "inference, theirs and ours | step, theirs and ours |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name in options.families or families.available():
        print(row(name, options.size, options.rounds), flush=True)


if __name__ == "__main__":
    main()
