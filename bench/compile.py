"""Compile every kernel for every GPU, with no GPU: registers, spills, instructions per row.

    python -m bench.compile                     # what changed, for all targets; writes the table
    python -m bench.compile --only 'msda forward' --targets 80 90
    python -m bench.compile --again             # unchanged cases, too

The table is `bench/results/compile.json`, committed. Each row keeps a digest of all that it depends
on, so that only what changed is compiled again. The exit status is 1 when a case of the model
spills or does not compile. Executed instructions are counted in the disassembly, loops times their
trip counts, and given per row of work and warp; they are an input of the cost model, not a time.
Triton's bundled disassembler no longer reads sm_70: there, resources only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.offline.disassembly import Listing, tool
from bench.offline.kernel_source import source_of
from seqformer.files import write_text

TABLE = Path(__file__).parent / "results" / "compile.json"
_VOLTA_HAS_NO = re.compile(r"\b\w*mma\.\w+|\b\w+(\.\w+)*\.bf16\w*")
"""Tensor-core products as Triton emits them, and bf16 arithmetic: a kernel for a V100 that needs
either would run on emulation, so it counts as broken."""
TARGETS = ("70", "75", "80", "86", "89", "90", "100", "120", "gfx942")
OTHERS_TARGETS = ("80", "90")
"""What other models launch is compiled for these, and what this one launches for all."""
SAME_TTGIR = (("70", "75", "80", "86", "89", "90"), ("100", "120"))
"""Targets for which Triton's own passes make the same of a variant, but for the target's name: it
is made once, and each target begins from there. A slow test compares the code of every launch of
the model with what Triton makes from the source."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a compiled case needs on a target.

    Attributes:
        spills: bytes of registers spilled to local memory.
        shared: bytes of shared memory per program.
        static: instructions in the code.
        per_row: warp instructions executed per row of work; None where code cannot be read.
        loads, atomics: static global loads and atomics by width or kind.
        barriers: block barriers in the code.
        error: why it does not compile.
        digest: of the kernel's source, types, constants, options, the target and the compiler.
    """

    case: str
    target: str
    is_model: bool
    digest: str
    registers: int | None = None
    spills: int | None = None
    shared: int | None = None
    static: int | None = None
    per_row: float | None = None
    loads: dict[str, int] | None = None
    atomics: dict[str, int] | None = None
    barriers: int | None = None
    error: str | None = None


def all_cases(capability: int) -> list[Any]:
    """Every launch-table entry that a GPU of this compute capability could be asked for."""
    from bench.offline.mask_variants import head_cases, threshold_cases
    from bench.offline.msda_variants import attention_cases

    return attention_cases(capability) + head_cases(capability) + threshold_cases()


@dataclass(frozen=True)
class Form:
    """A case as one target compiles it."""

    case: Any
    target: str

    @property
    def types(self) -> dict[str, Any]:
        """Argument -> Triton type, "constexpr" for constants."""
        variant = self.case.variant
        return {
            name: "constexpr" if name in variant.constants else variant.types[name]
            for name in variant.kernel.arg_names
        }

    @property
    def options(self) -> dict[str, Any]:
        """Compile options."""
        return self.case.variant.options("hip" if self.target.startswith("gfx") else "cuda")

    def digest(self) -> str:
        """Of everything that the row depends on, the code of all that the kernel calls included.

        Raises: RuntimeError when Triton is interpreting.
        """
        import triton
        from triton.runtime.jit import JITFunction

        variant = self.case.variant
        if not isinstance(variant.kernel, JITFunction):
            raise RuntimeError("kernels were loaded for the interpreter; unset TRITON_INTERPRET")
        # Arguments by their place: what they are called does not count.
        types = list(self.types.values())
        constants = [repr(variant.constants.get(name)) for name in variant.kernel.arg_names]
        parts = (
            self.case.name,
            source_of(variant.kernel),
            types,
            constants,
            sorted(self.options.items()),
            (variant.rows, variant.num_warps, variant.trips, self.case.is_model),
            self.target,
            triton.__version__,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def compile_case(name: str, targets: Sequence[str]) -> list[Row]:
    """Compile one case for some targets.

    Raises: RuntimeError when Triton is interpreting; KeyError for an unknown case.
    """
    rows: list[Row] = []
    done: list[tuple[Form, str]] = []
    for target in targets:
        form = Form({c.name: c for c in all_cases(_capability(target))}[name], target)
        ttgir = next((retargeted(text, form) for f, text in done if has_same_ttgir(f, form)), None)
        row, code = _row_and_code(form, ttgir)
        rows.append(row)
        if ttgir is None and "ttgir" in code:
            done.append((form, code["ttgir"]))
    return rows


def _row_and_code(form: Form, ttgir: str | None) -> tuple[Row, Mapping[str, Any]]:
    from triton.compiler import CompilationError
    from triton.runtime.errors import PTXASError

    case, target, variant = form.case, form.target, form.case.variant
    row = {"case": case.name, "target": target, "is_model": case.is_model, "digest": form.digest()}
    try:
        code = (compile_form(form) if ttgir is None else compile_ttgir(ttgir, form)).asm
    except (CompilationError, PTXASError, RuntimeError) as error:
        return Row(**row, error=str(error).strip().splitlines()[-1]), {}
    if target.startswith("gfx"):
        return Row(**row, **_amd_resources(code["amdgcn"])), code
    if int(target) < 80 and (broken := _VOLTA_HAS_NO.search(code["ptx"])):
        error = f"uses {broken.group(0)}, which GPUs before sm_80 do not have"
        return Row(**row, error=error), code
    return Row(**row, **_nvidia_resources(code, target, variant)), code


def has_same_ttgir(form: Form, other: Form) -> bool:
    """Whether Triton's passes make the same of two forms of a case, but for the target."""
    is_alike = any(form.target in group and other.target in group for group in SAME_TTGIR)
    return is_alike and form.case.variant == other.case.variant


def retargeted(ttgir: str, form: Form) -> str:
    """The code for the target of a form."""
    return re.sub(r'"cuda:\d+"', f'"cuda:{form.target}"', ttgir)


def compile_ttgir(ttgir: str, form: Form) -> Any:
    """What Triton makes of a form from this code on; raises its errors."""
    from triton.compiler import compile as triton_compile

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ttgir"
        source.write_text(ttgir)
        target = _gpu_target(form.target)
        return triton_compile(str(source), target=target, options=form.options)


def compile_form(form: Form) -> Any:
    """What Triton makes of it, or finds in its cache; raises its errors."""
    from triton.compiler import compile as triton_compile

    return triton_compile(_source(form), target=_gpu_target(form.target), options=form.options)


def first_code(form: Form) -> str:
    """Triton's own code of a form, all calls inlined, before any pass of the GPU's."""
    from triton._C.libtriton import ir
    from triton.compiler import make_backend

    source, backend, stages = _source(form), make_backend(_gpu_target(form.target)), {}
    options = backend.parse_options(form.options)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(options)
    module = source.make_ir(
        _gpu_target(form.target), options, functions, backend.get_module_map(), context
    )
    backend.add_stages(stages, options, source.language)
    return str(stages["ttir"](module, {}))


def _source(form: Form) -> Any:
    from triton.compiler import ASTSource

    variant, types = form.case.variant, form.types
    names = variant.kernel.arg_names
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if types[n][:1] == "*"}
    constants = {(names.index(n),): value for n, value in variant.constants.items()}
    return ASTSource(variant.kernel, types, constants, aligned)


def _capability(target: str) -> int:
    return 90 if target.startswith("gfx") else int(target)


def _gpu_target(target: str) -> Any:
    from triton.backends.compiler import GPUTarget

    if target.startswith("gfx"):
        return GPUTarget("hip", target, 64)
    return GPUTarget("cuda", int(target), 32)


def _amd_resources(assembly: str) -> dict[str, Any]:
    def number(key: str) -> int:
        match = re.search(rf"\.{key}:\s*(\d+)", assembly)
        return int(match.group(1)) if match else 0

    return {
        "registers": number("vgpr_count"),
        "spills": 4 * number("vgpr_spill_count"),
        "shared": number("group_segment_fixed_size"),
    }


def _nvidia_resources(code: Mapping[str, Any], target: str, variant: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code["cubin"])
        file.flush()
        usage = tool("cuobjdump", "-res-usage", file.name)
        text = "" if target == "70" else tool("nvdisasm", "-c", file.name)
    resources = re.search(r"REG:(\d+) STACK:\d+ SHARED:(\d+) LOCAL:(\d+)", usage)
    if resources is None:
        raise RuntimeError(f"cuobjdump did not tell the resources: {usage.strip()[-200:]}")
    registers, shared, _ = map(int, resources.groups())
    row: dict[str, Any] = {"registers": registers, "shared": shared}
    if not text:
        return row | {"spills": _spilled_bytes(code["ptx"], target)}
    listing = Listing.parse(text)
    rows_per_warp = variant.rows / variant.num_warps
    return row | {
        "spills": listing.spilled_bytes(),
        "static": len(listing.instructions),
        "per_row": round(listing.executed(variant.trips) / rows_per_warp, 1),
        "loads": listing.count(r"LDG"),
        "atomics": listing.count(r"RED|ATOM"),
        "barriers": sum(listing.count(r"BAR").values()),
    }


def _spilled_bytes(ptx: str, target: str) -> int:
    """What ptxas reports; the stack in the resources also holds return addresses."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        told = tool("ptxas", "-v", f"--gpu-name=sm_{target}", str(source), "-o", f"{folder}/out")
    stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told).groups()
    return int(stores) + int(loads)


def forms(targets: Sequence[str], only: str = "", model_only: bool = False) -> list[Form]:
    """All cases whose name contains `only`, on every target that they are compiled for."""
    return [
        Form(case, target)
        for target in targets
        for case in all_cases(_capability(target))
        if only in case.name and (case.is_model or (target in OTHERS_TARGETS and not model_only))
    ]


def compile_all(forms: Sequence[Form], processes: int | None = None) -> Iterator[Row]:
    """Their rows, as they are done; whoever stops early waits for no more than what has begun."""
    targets: dict[str, list[str]] = {}
    for form in forms:
        targets.setdefault(form.case.name, []).append(form.target)
    pool = ProcessPoolExecutor(processes or os.cpu_count(), mp_context=get_context("spawn"))
    try:
        for done in [pool.submit(compile_case, *case) for case in targets.items()]:
            yield from done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_table(path: Path = TABLE) -> dict[str, Any]:
    """{"triton": version, "rows": [...]}."""
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(path: Path = TABLE) -> list[Row]:
    """The rows of a table by this Triton; none where there is no such table."""
    import triton

    if not path.exists() or (table := read_table(path))["triton"] != triton.__version__:
        return []
    return [Row(**{"digest": "", **row}) for row in table["rows"]]


def write_table(rows: Sequence[Row], path: Path = TABLE) -> None:
    """Replace the rows that were compiled again; the others stay if Triton is the same and their
    case still exists."""
    import triton

    cases = {(f.case.name, f.target) for f in forms(TARGETS)}
    new = {(r.case, r.target): r for r in rows_of(path) if (r.case, r.target) in cases}
    new |= {(row.case, row.target): row for row in rows}
    lines = ",\n".join("  " + json.dumps(_compact(new[key])) for key in sorted(new))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f'{{"triton": "{triton.__version__}", "rows": [\n{lines}\n]}}\n')


def _compact(row: Row) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if value is not None}


def is_broken(row: Row) -> bool:
    """A case of the model that does not compile or spills. AMD is tried, not promised."""
    is_promised = row.is_model and not row.target.startswith("gfx")
    return is_promised and (row.error is not None or bool(row.spills))


def show(row: Row) -> str:
    """One line."""
    if row.error:
        return f"{row.case:44}{row.target:>8}  {row.error}"
    per_row = "-" if row.per_row is None else f"{row.per_row:.0f}"
    atomics = " ".join(f"{k}x{v}" for k, v in (row.atomics or {}).items())
    return (
        f"{row.case:44}{row.target:>8}{row.registers:6} regs{row.spills:5} B spilled"
        f"{row.shared:7} B shared{per_row:>7} /row  {atomics}"
    )


def cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main(arguments: Sequence[str] | None = None) -> int:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--model-only", action="store_true", help="only what the model launches")
    parser.add_argument("--again", action="store_true", help="compile unchanged cases, too")
    parser.add_argument("--processes", type=int, help="that compile; by default one a core")
    parser.add_argument("--out", type=Path, default=TABLE, help="table to write")
    options = parser.parse_args(arguments)
    if os.environ.pop("TRITON_INTERPRET", None):
        print("TRITON_INTERPRET is ignored here", file=sys.stderr)
    asked = forms(options.targets, options.only, options.model_only)
    known = {} if options.again else {row.digest: row for row in rows_of(options.out)}
    rows = [known[digest] for form in asked if (digest := form.digest()) in known]
    unchanged = len(rows)
    try:
        changed = [form for form in asked if form.digest() not in known]
        for row in compile_all(changed, options.processes):
            print(show(row), flush=True)
            rows.append(row)
    finally:
        write_table(rows, options.out)
    broken = [row for row in rows if is_broken(row)]
    print(
        f"{len(rows) - unchanged} compiled in {cpu_seconds():.0f} CPU seconds, {unchanged} "
        f"unchanged, {len(broken)} of the model broken; table: {options.out}"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.compile", main)
