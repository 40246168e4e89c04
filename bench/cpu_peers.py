"""Deformable attention on a CPU: ours beside the installed peers that run there, in CPU seconds.

    pip install deformops
    python -m bench.cpu_peers

One call of an encoder layer and one of a decoder layer, forward alone and with all gradients, on
one thread. Outputs are compared first. Calls alternate, and the least of each side counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
import tyro
from torch import Tensor

from bench.baselines.peers import PEERS
from bench.suite.msda_calls import Inputs, MSDACall, ours, reference

Run = Callable[[Inputs, list[Tensor]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print a line per call and side."""

    frames: int = 5
    height: int = 192
    width: int = 320
    queries: int = 300
    """Of the decoder's call."""
    rounds: int = 3


def sides() -> dict[str, Run]:
    """Name -> what computes: the operator, `grid_sample`, and the peers that are installed."""
    found: dict[str, Run] = {"ours": ours, "grid_sample": reference}
    for peer in PEERS:
        if peer.on_cpu and peer.is_installed():
            try:
                name = f"{peer.name} {version(peer.module)}"
            except PackageNotFoundError:
                name = peer.name
            found[name] = peer.run
    return found


def seconds(run: Run, inputs: Inputs, is_both: bool) -> tuple[float, Tensor]:
    """CPU seconds of a call, and its output."""
    leaves = [leaf.detach().requires_grad_(is_both) for leaf in inputs.leaves()]
    begun = time.process_time()
    with torch.set_grad_enabled(is_both):
        output = run(inputs, leaves)
        if is_both:
            torch.autograd.grad(output, leaves, inputs.grad_output.reshape(output.shape))
    return time.process_time() - begun, output.detach()


def main(options: Options) -> None:
    """The table."""
    torch.set_num_threads(1)
    size = {"height": options.height, "width": options.width, "frames": options.frames}
    runs = sides()
    print(f"torch {torch.__version__}, {options.frames} frames of {options.height}x{options.width}")
    for call in (MSDACall(**size), MSDACall(**size, queries=options.queries)):
        inputs = call.inputs(torch.device("cpu"))
        part = "decoder" if call.queries else "encoder"
        for is_both in (False, True):
            expected = seconds(runs["ours"], inputs, is_both)[1]
            best = dict.fromkeys(runs, float("inf"))
            for round_number in range(options.rounds):
                for name, run in runs.items():
                    taken, output = seconds(run, inputs, is_both)
                    best[name] = min(best[name], taken)
                    if round_number == 0:
                        shaped = output.reshape(expected.shape)
                        torch.testing.assert_close(shaped, expected, rtol=1e-3, atol=1e-4)
            way = "both ways" if is_both else "forward"
            for name, least in best.items():
                print(f"{part} {way}: {name} {least:.4f} s, {least / best['ours']:.1f} of ours")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
    sys.exit(0)
