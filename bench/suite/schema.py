"""A benchmark case: who is called on what, what the call must cost at least, and what it is beside.

A case is declared once, in `bench/suite/cases/`, and run by several runners: `pytest bench`
(agreement of the sides at the smoke size; with `--measure` CPU seconds through pytest-benchmark)
and `bench.gpu` (CUDA events). What a side's call returns is its output; runners
compare the outputs of all sides before they time anything.

Shapes are given in the letters of the project: B clips, T frames, Q queries, C channels, M heads,
L levels, P points, S tokens, N instances, K classes; H and W pixels of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Size = Literal["smoke", "cpu", "gpu"]
"""smoke: seconds for all cases together, in CI; cpu, gpu: what is measured there."""
Group = Literal["kernels", "blocks", "model", "data", "scoring", "growth"]
Direction = Literal["forward", "backward", "both", "-"]
Call = Callable[[], Any]
TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}
"""Largest relative difference (norms) of two sides' outputs, unless a case says otherwise. The
exact limits of every operator are those of its tests; this catches sides that do different work."""


def always(device: torch.device) -> bool:
    """A side that runs on every machine."""
    return True


@dataclass(frozen=True, kw_only=True)
class Side:
    """One contender.

    Attributes:
        name: "ours", "published", "compiled", or a peer's name.
        build: device -> the call to time. Inputs are made here, from a fixed seed, so that all
            sides see the same.
        available: whether it runs on this device of this machine.
        is_peer: another project's code; `bench.gpu --part peers` runs these.
    """

    name: str
    build: Callable[[torch.device], Call]
    available: Callable[[torch.device], bool] = always
    is_peer: bool = False


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Least work of one call: every input and output moved once, and the arithmetic.

    Attributes:
        bytes: to and from memory; None where nobody can say.
        flops: multiply and add count two; None where nobody can say.
        half_flops: of these, those that tensor cores take in half precision.
    """

    bytes: int | None = None
    flops: int | None = None
    half_flops: int = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement.

    Attributes:
        name: unique among all cases of a size; the same from run to run, as records are compared by
            it.
        op: what is called, the same for all sizes, dtypes and directions of it: "msda fused",
            "encoder layer", "training step".
        shapes: in the project's letters.
        units: what one call makes, for throughput: ("clips", 1) or ("frames", 36).
        baseline: the side that ratios are against.
        along: for a growth curve, the letter that varies.
        rounds: measured rounds on a CPU.
        memory: measure the peak growth of one call of each side (CPU: in a fresh process).
        tolerance: of the outputs' agreement; None takes `TOLERANCE`.
    """

    name: str
    op: str
    group: Group
    sides: tuple[Side, ...]
    direction: Direction = "-"
    dtype: str = "float32"
    shapes: Mapping[str, int] = field(default_factory=dict)
    cost: Cost = Cost()
    units: tuple[str, int] | None = None
    baseline: str = "published"
    along: str | None = None
    rounds: int = 5
    memory: bool = True
    tolerance: float | None = None

    def __post_init__(self) -> None:
        names = [side.name for side in self.sides]
        if names[:1] != ["ours"] or len(set(names)) != len(names):
            raise ValueError(f"{self.name}: sides must start with 'ours' and differ, got {names}")
        if len(names) > 1 and self.baseline not in names:
            raise ValueError(f"{self.name}: baseline {self.baseline!r} is not among {names}")

    def sides_on(self, device: torch.device, peers: bool = False) -> list[Side]:
        """Sides that run there; other projects' code only if asked for."""
        return [s for s in self.sides if s.available(device) and (peers or not s.is_peer)]


def disagreement(found: Any, wanted: Any) -> float:
    """Largest relative difference (norms) of two outputs; infinity if they differ in kind.

    Tensors and numbers by norm, everything else by equality; sequences and mappings part by part.
    """
    if isinstance(wanted, Tensor):
        if not isinstance(found, Tensor) or found.shape != wanted.shape:
            return float("inf")
        difference = (found.detach().double() - wanted.detach().double()).norm()
        scale = wanted.detach().double().norm()
        return float(difference / scale) if scale else float(difference)
    if isinstance(wanted, float):
        return abs(found - wanted) / max(abs(wanted), 1e-30)
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping) or set(found) != set(wanted):
            return float("inf")
        return max((disagreement(found[k], wanted[k]) for k in wanted), default=0.0)
    if isinstance(wanted, Sequence) and not isinstance(wanted, (str, bytes)):
        if len(found) != len(wanted):
            return float("inf")
        pairs = zip(found, wanted, strict=True)
        return max((disagreement(a, b) for a, b in pairs), default=0.0)
    return 0.0 if found == wanted else float("inf")


def check_agreement(case: Case, outputs: Mapping[str, Any]) -> None:
    """Compare every output with that of the baseline, or ours where that is absent.

    Raises: AssertionError: one differs by more than the case allows.
    """
    reference = case.baseline if case.baseline in outputs else "ours"
    limit = TOLERANCE[case.dtype] if case.tolerance is None else case.tolerance
    for name, output in outputs.items():
        error = disagreement(output, outputs[reference])
        assert error <= limit, (
            f"{case.name}: {name} differs from {reference} by {error:.1e}, more than {limit:.0e}; "
            "nothing is timed before they do the same work"
        )


def unique(cases: Iterator[Case]) -> list[Case]:
    """The cases as a list. Raises: ValueError: two have one name."""
    found: dict[str, Case] = {}
    for case in cases:
        if case.name in found:
            raise ValueError(f"two cases are named {case.name!r}")
        found[case.name] = case
    return list(found.values())
