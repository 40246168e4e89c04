"""What is proven about a kernel by running its compiled code: cases, and how one becomes a row."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from bench.offline.emulator import Options
from bench.offline.emulator.coverage import code_digests, covered_forms, launch_digest
from bench.offline.emulator.session import EmulatedFaultError, EmulatedGPU

Extent = Literal["quick", "default", "full"]
"""quick: what a test runs, in seconds with a warm cache. default: every variant the model launches.
full: other models' sizes and random problems too."""
EXTENTS: tuple[Extent, ...] = ("quick", "default", "full")


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A call whose launches must be without fault and whose results must be right.

    Attributes:
        name: e.g. "msda points float32 D32".
        run: makes the call on the emulated GPU and compares; raises AssertionError.
        extent: the smallest run that it belongs to.
        is_empty: whether it is right that nothing is launched.
    """

    name: str
    run: Callable[[EmulatedGPU], None]
    extent: Extent = "default"
    is_empty: bool = False


@dataclass(kw_only=True)
class Row:
    """What became of a proof on one GPU.

    Attributes:
        fault: why it failed, in words; None if it holds.
        launches: by kernel.
        variants: how many forms of each there were, by Triton's keys.
        forms: entries of the launch tables for the model's sizes that were launched.
        code: digests of the kernels, by kernel.
        launched_by: digest of the launchers and of this GPU's entries of the launch tables.
        commit: of the checkout that ran.
        compilations: forms of kernels that were new to this device.
        instructions: of warps, all launches together.
        faults: of the launches.
        seconds: wall time, compilation included; emulated: of the launches alone.
    """

    name: str
    capability: int
    fault: str | None = None
    launches: dict[str, int] = field(default_factory=dict)
    variants: dict[str, int] = field(default_factory=dict)
    forms: list[str] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)
    launched_by: str = ""
    commit: str | None = None
    compilations: int = 0
    instructions: int = 0
    faults: int = 0
    seconds: float = 0.0
    emulated: float = 0.0


def run_proof(gpu: EmulatedGPU, proof: Proof, options: Options) -> Row:
    """Run a proof with these options; what it raises is told in its row."""
    row = Row(name=proof.name, capability=gpu.capability)
    first, compiled = len(gpu.launches), len(gpu.compilations)
    gpu.options, gpu.sample = options, None
    start = time.perf_counter()
    try:
        proof.run(gpu)
        assert proof.is_empty or len(gpu.launches) > first, "no kernel was launched"
    except EmulatedFaultError as error:
        row.fault = str(error)
    except AssertionError as error:
        row.fault = f"wrong: {str(error).strip() or 'an assertion without words'}"
    except Exception as error:  # whatever Triton or the emulator say; the other proofs go on
        row.fault = f"{type(error).__name__}: {str(error).strip()}"
    row.seconds = time.perf_counter() - start
    launches = gpu.launches[first:]
    row.launches = dict(Counter(launch.kernel for launch in launches))
    keys = {(launch.kernel, launch.key) for launch in launches}
    row.variants = dict(Counter(kernel for kernel, _ in sorted(keys)))
    row.forms = covered_forms(gpu.capability, launches)
    row.code = {kernel: code_digests()[kernel] for kernel in row.launches}
    row.launched_by = launch_digest(gpu.capability)
    row.compilations = len(gpu.compilations) - compiled
    row.instructions = sum(launch.counts.warp_instructions for launch in launches)
    row.faults = sum(len(launch.faults) for launch in launches)
    row.emulated = sum(launch.seconds for launch in launches)
    return row
