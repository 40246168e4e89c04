"""What a user waits for Triton's compiler: CPU seconds of every form, and of a first training step.

    python -m bench.compile_time                    # sm_80 and sm_90; two minutes
    python -m bench.compile_time --capability 80 --only 'mask'
    python -m bench.compile_time --part step        # the first step, and no forms
    python -m bench.compile_time --part estimate    # from the code's size: the same everywhere
    python -m bench.compile_time --output bench/results/emulated/compile-time.json

A process of its own with an empty cache compiles, one form after another; seconds are of the
process's CPU time and of the assembler that it starts. Other work on the machine makes them longer,
so what takes more than half of its limit is compiled twice, and the shorter time counts. The first
step is a training step of a tiny model whose heads, levels and points are the published model's,
behind a stand-in for a GPU (`bench/offline/stand_in.py`): what its compilations take together. The
exit status is 1 where a form or a step takes longer than its limit.

The estimate needs a tenth of a second a form. `TritonGPUCoalesce` walks over the operations around
every load and store of a tensor whose address is no argument of a loop, and all other passes over
each operation some times.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from bench.compile import compile_form, cpu_seconds, first_code, forms

FORM_LIMIT, STEP_LIMIT = 5.0, 15.0
"""CPU seconds of a form, and of all that a first training step compiles."""
CAPABILITIES = (80, 90)
PARTS = ("step", "forms", "estimate")
STEP = "training step"
SECONDS_PER_OPERATION, SECONDS_PER_WALK = 6.5e-4, 2.1e-5
"""Of the estimate, by what Triton 3.9 takes for the kernels of a training step: for an operation,
and for an operation and an access."""
SIZE = (("hidden_dim", 64), ("num_heads", 2), ("num_encoder_layers", 1), ("num_decoder_layers", 2))
SIZE += (("ffn_dim", 64), ("num_queries", 20))
"""Heads of 32 channels, as the published model; little else of it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was compiled, and how long it took.

    Attributes:
        name: a form of the launch tables, or a kernel of the first step.
        part: "form", "step", "step total" or "estimate".
        seconds: of CPU time.
    """

    name: str
    capability: int
    part: str
    seconds: float

    @property
    def is_slow(self) -> bool:
        """Whether it is over its limit."""
        return self.seconds > (STEP_LIMIT if self.part == "step total" else FORM_LIMIT)


@contextmanager
def timed_compiler(enter: Callable[[str, float], None]) -> Iterator[None]:
    """Inside, `enter` gets the name and the CPU seconds of all that Triton compiles."""
    import triton

    compiler = triton.compiler.compile

    def timed(source: Any, *arguments: Any, **named: Any) -> Any:
        start = cpu_seconds()
        compiled = compiler(source, *arguments, **named)
        enter(source.fn.__name__, cpu_seconds() - start)
        return compiled

    with mock.patch.object(triton.compiler, "compile", timed):
        yield


def time_forms(capability: int, only: str) -> Iterator[Row]:
    """Every form that the model launches on this GPU."""
    from triton import knobs

    target = str(capability)
    compile_form(forms([target], "threshold", model_only=True)[0])  # loads the compiler
    for form in forms([target], only, model_only=True):

        def seconds(form: Any = form) -> float:
            start = cpu_seconds()
            with knobs.compilation.scope():
                knobs.compilation.always_compile = True
                compile_form(form)
            return cpu_seconds() - start

        shortest = seconds()
        if shortest > FORM_LIMIT / 2:
            shortest = min(shortest, seconds())
        yield Row(name=form.case.name, capability=capability, part="form", seconds=shortest)


def estimate_forms(capability: int, only: str) -> Iterator[Row]:
    """The same from the size of the code, before any pass of the GPU's."""
    for form in forms([str(capability)], only, model_only=True):
        operations, accesses = size_of(first_code(form))
        seconds = operations * (SECONDS_PER_OPERATION + SECONDS_PER_WALK * accesses)
        yield Row(name=form.case.name, capability=capability, part="estimate", seconds=seconds)


def size_of(code: str) -> tuple[int, int]:
    """Operations, and loads, stores and atomics of tensors among them whose address no loop
    carries."""
    operations = re.findall(r"^\s+(?:%\S+ = |\"?tt\.|scf\.).*$", code, re.MULTILINE)
    loops = re.findall(r"iter_args\((.*?)\) ->", code)
    carried = {name for loop in loops for name in re.findall(r"(%\S+) =", loop)}
    find = re.compile(r"\btt\.(?:load|store|atomic_rmw)\b[^%]*(%[\w#]+).*tensor<").search
    accesses = [match.group(1) for line in operations if (match := find(line))]
    return len(operations), sum(address not in carried for address in accesses)


def time_step(capability: int) -> list[Row]:
    """All that a first training step compiles, in order, and the sum."""
    import torch

    import kernels
    import kernels.deformable_attention.tiles as tiles
    from bench.offline.stand_in import standing_in
    from bench.suite.model_inputs import ModelSize, model_of, padding_and_targets, video
    from seqformer.criterion import training_losses

    size = ModelSize(
        backbone="resnet_mini", frames=2, height=64, width=96, instances=2, overrides=SIZE
    )
    device = torch.device("cpu")
    model, images = model_of(size, device), video(size, device)
    mask, targets = padding_and_targets(size, device)
    rows: list[Row] = []

    def enter(name: str, seconds: float) -> None:
        rows.append(Row(name=name, capability=capability, part="step", seconds=seconds))

    # A launch does nothing: what it would have written is zero, not what lies in memory.
    with (
        mock.patch.object(torch, "empty", torch.zeros),
        mock.patch.object(torch, "empty_like", torch.zeros_like),
        mock.patch.object(torch.Tensor, "new_empty", torch.Tensor.new_zeros),
        # The encoder's backward as at the sizes of training.
        mock.patch.object(tiles, "MERGED_ROWS", 1),
        standing_in(capability),
        timed_compiler(enter),
        kernels.use_backend("triton"),
    ):
        sum(training_losses(model, images, mask, targets).values()).backward()
    total = sum(row.seconds for row in rows)
    return [*rows, Row(name=STEP, capability=capability, part="step total", seconds=total)]


def show(row: Row) -> str:
    """One line."""
    limit = STEP_LIMIT if row.part == "step total" else FORM_LIMIT
    end = f"  more than {limit:.0f}" if row.is_slow else ""
    return f"sm_{row.capability:<4}{row.part:12}{row.name:44}{row.seconds:7.2f} CPU s{end}"


def in_process(capability: int, part: str, only: str) -> list[Row]:
    """Rows of a process with an empty cache, printed as they come."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        removed = ("TRITON_INTERPRET", "SEQFORMER_KERNELS_BACKEND")
        environment = {k: v for k, v in os.environ.items() if k not in removed}
        command = [sys.executable, "-m", "bench.compile_time", "--inner", "--part", part]
        with subprocess.Popen(
            [*command, "--only", only, "--capability", str(capability)],
            cwd=Path(__file__).parents[1],
            env=environment | {"TRITON_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                rows.append(Row(**json.loads(line)))
                print(show(rows[-1]), flush=True)
    if process.returncode:
        raise RuntimeError(f"the process that compiles ended with {process.returncode}")
    return rows


def measure(capability: int, part: str, only: str) -> list[Row]:
    """Rows of a part; a step that is over half of its limit is measured twice."""
    rows = in_process(capability, part, only)
    if part == "step" and rows[-1].seconds > STEP_LIMIT / 2:
        rows = min(rows, in_process(capability, part, only), key=lambda rows: rows[-1].seconds)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--capability", type=int, nargs="+", default=list(CAPABILITIES))
    parser.add_argument("--only", default="", help="forms whose name contains this")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS[:2])
    parser.add_argument("--output", type=Path, help="record to write; by default none is")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inner:
        (capability,), (part,) = options.capability, options.part
        ways = {"forms": time_forms, "estimate": estimate_forms}
        found = ways[part](capability, options.only) if part in ways else time_step(capability)
        for row in found:
            print(json.dumps(asdict(row)), flush=True)
        return 0
    rows = [
        row
        for capability in options.capability
        for part in options.part
        for row in measure(capability, part, options.only)
    ]
    if options.output is not None:
        write_record(rows, options.output)
    slow = sum(row.is_slow for row in rows)
    print(f"{len(rows)} rows, {slow} over {FORM_LIMIT:.0f} s (a step: {STEP_LIMIT:.0f} s)")
    return 1 if slow else 0


def write_record(rows: Sequence[Row], path: Path) -> None:
    """The rows as a record, labelled emulated."""
    import torch
    import triton

    from bench.suite import record

    facts = record.machine(torch.device("cpu"))
    facts["emulated"] = sorted({row.capability for row in rows})
    limits = {"form": FORM_LIMIT, "step total": STEP_LIMIT}
    made = record.new_record(
        "emulated-compile-time",
        facts,
        [],
        rows=[asdict(row) | {"seconds": round(row.seconds, 2)} for row in rows],
        limits=limits,
        triton=triton.__version__,
    )
    record.write(made, path)


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.compile_time", main)
