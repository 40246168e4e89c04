"""Every launch of the model compiles for V100, A100 and H100 with no GPU, and gets no worse."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.compile import TABLE, TARGETS, forms, read_table
from bench.offline.disassembly import Listing

ROOT = Path(__file__).parents[2]
GROWTH = 1.05
"""Registers and instructions may grow by this factor before it is an error."""

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


def compile_cases(tmp_path: Path, *arguments: str) -> tuple[int, list[dict]]:
    """Rows of `python -m bench.compile`, in a process that does not interpret. What the committed
    table has of the same kernels is not compiled again."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    out = tmp_path / "table.json"
    if not out.exists():
        shutil.copy(TABLE, out)
    done = subprocess.run(
        [sys.executable, "-m", "bench.compile", "--out", str(out), *arguments],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert out.exists(), done.stderr
    return done.returncode, json.loads(out.read_text())["rows"]


def assert_no_worse(rows: list[dict]) -> None:
    """Nothing spills, and against the committed table nothing grew."""
    import triton

    table = read_table()
    known = {(r["case"], r["target"]): r for r in table["rows"]}
    for row in rows:
        name = f"{row['case']} for {row['target']}"
        assert "error" not in row, f"{name}: {row['error']}"
        assert row["spills"] == 0, f"{name} spills {row['spills']} bytes"
        old = known.get((row["case"], row["target"]))
        assert old is not None, f"{name} is not in {TABLE.name}; run python -m bench.compile"
        if table["triton"] != triton.__version__:
            continue  # another compiler: its numbers cannot be compared
        for key in ("registers", "per_row"):
            if key in old:
                assert row[key] <= GROWTH * old[key], f"{name}: {key} {old[key]} -> {row[key]}"


def test_model_launches_compile_without_spills(tmp_path):
    targets = ("70", "80", "90")
    code, rows = compile_cases(tmp_path, "--model-only", "--targets", *targets)
    rows = [row for row in rows if row["is_model"] and row["target"] in targets]
    assert len(rows) > 3 * 20 and code == 0
    assert_no_worse(rows)


def test_only_what_changed_is_compiled_again(tmp_path):
    """The row with another digest, and no other."""
    case, target = "mask threshold bits float32", "80"
    table = read_table()
    (row,) = [r for r in table["rows"] if (r["case"], r["target"]) == (case, target)]
    row |= {"digest": "of another kernel", "registers": 255}
    (tmp_path / "table.json").write_text(json.dumps(table))
    code, rows = compile_cases(tmp_path, "--only", "threshold", "--targets", target)
    again = {(r["case"], r["target"]): r for r in rows}
    assert code == 0 and again[case, target]["registers"] < 255
    others = [r for r in table["rows"] if r is not row]
    assert [again[r["case"], r["target"]] for r in others] == others


def assert_same_from_ttgir(only: str, targets: tuple[str, ...]) -> None:
    """The code that each target's compilation from a shared beginning gives is Triton's own."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", FROM_TTGIR, only, *targets],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0, "nothing was shared"


FROM_TTGIR = """
import sys
from bench.compile import compile_form, compile_ttgir, forms, has_same_ttgir, retargeted

only, *targets = sys.argv[1:]
compared, first = 0, {}
for form in forms(targets, only, model_only=True):
    own = compile_form(form).asm
    before = first.setdefault(form.case.name, [])
    text = next((retargeted(t, form) for f, t in before if has_same_ttgir(f, form)), None)
    if text is None:
        before.append((form, own["ttgir"]))
        continue
    shared = compile_ttgir(text, form).asm
    name = f"{form.case.name} for {form.target}"
    assert shared["ptx"] == own["ptx"] and shared["cubin"] == own["cubin"], name
    compared += 1
print(compared)
"""


def test_targets_share_what_triton_makes_of_a_variant():
    """One form; a slow test compares all."""
    assert_same_from_ttgir("mask threshold bits bfloat16", ("80", "86"))


@pytest.mark.slow
def test_targets_share_what_triton_makes_of_all_variants():
    assert_same_from_ttgir("", tuple(target for target in TARGETS if target.isdigit()))


@pytest.mark.slow
def test_everything_compiles(tmp_path):
    code, rows = compile_cases(tmp_path)
    assert code == 0
    assert_no_worse([r for r in rows if r["is_model"] and not r["target"].startswith("gfx")])


def test_committed_table_holds_every_mask_launch():
    """All types, heads and targets; none spills."""
    rows = {(r["case"], r["target"]): r for r in read_table()["rows"] if "mask" in r["case"]}
    expected = {(form.case.name, form.target) for form in forms(TARGETS, "mask")}
    assert expected == set(rows)
    for (case, target), row in rows.items():
        assert target.startswith("gfx") or row.get("spills") == 0, f"{case} for {target}: {row}"


def test_forward_of_masks_needs_few_registers():
    """As the model launches it, in all types."""
    rows = {(r["case"], r["target"]): r for r in read_table()["rows"]}
    for dtype in ("float32", "float16", "bfloat16"):
        for target in ("70", "75", "80", "86", "89", "90"):
            assert rows[f"mask forward {dtype}", target]["registers"] <= 80, (dtype, target)


def test_instruction_budgets_of_the_committed_table():
    """Warp instructions per row of work, for points and for boxes, with a padded region."""
    rows = {(r["case"], r["target"]): r for r in read_table()["rows"]}
    for target in ("80", "90"):
        for dtype, points, boxes in (
            ("float32", 315, 325),
            ("float16", 260, 265),
            ("bfloat16", 260, 265),
        ):
            assert rows[f"msda forward {dtype} points", target]["per_row"] <= points
            assert rows[f"msda forward {dtype} boxes", target]["per_row"] <= boxes
    for dtype in ("float32", "float16", "bfloat16"):
        assert rows[f"msda backward {dtype} points", "90"]["per_row"] <= 830
        assert rows[f"msda backward {dtype} points", "80"]["per_row"] <= 1020


def test_kernels_move_nothing_through_shared_memory_and_add_as_designed():
    for row in read_table()["rows"]:
        if not row["case"].startswith("msda") or row["target"] in ("70", "gfx942"):
            continue
        if "merged" in row["case"] and "merged adds" not in row["case"]:
            # Sorting counts with integers, and sums over the cells of a program.
            assert not any("F32" in kind for kind in row.get("atomics", ())), row
            continue
        # Other models' rows may hand a logit each to lanes of another warp.
        assert row["shared"] <= (0 if row["is_model"] else 1024), row
        if "forward" in row["case"]:
            assert not row.get("atomics"), row
            continue
        kinds = " ".join(row["atomics"])
        assert "ATOM" not in kinds and "CAS" not in kinds, row
        if "deterministic" in row["case"]:
            assert "64" in kinds, row
        elif row["target"] in ("90", "100", "120"):
            assert "F32x4" in kinds, row
        else:
            assert "F32x" not in kinds, row


def test_a_branch_in_a_loop_counts_by_the_trips_that_take_it():
    code = """
.L_x_1:
        /*0000*/              @!P0 BRA `(.L_x_3) ;
        /*0010*/                   FADD R1, R1, R4 ;
        /*0020*/              @!P2 BRA `(.L_x_2) ;
        /*0030*/                   FADD R1, R1, R4 ;
.L_x_2:
        /*0040*/                   FADD R1, R1, R4 ;
.L_x_3:
        /*0050*/                   MOV R1, R2 ;
        /*0060*/               @P1 BRA `(.L_x_1) ;
        /*0070*/               @P1 BRA `(.L_x_4) ;
        /*0080*/                   MOV R1, R2 ;
.L_x_4:
        /*0090*/                   EXIT ;
"""
    listing = Listing.parse(code)
    assert listing.loops == [(0, 6)] and listing.jumps == [(1, 4), (3, 3), (8, 8)]
    assert listing.executed(10) == 10 * 7 + 3
    assert listing.executed(10, taken=0.25) == 10 * (3 + 0.25 * 4) + 3


def test_loops_are_counted_by_their_trips():
    code = """
.L_x_0:
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/              @!P0 LDG.E.128 R4, [R2] ;
        /*0020*/                   FADD R1, R1, R4 ;
        /*0030*/               @P1 BRA `(.L_x_1) ;
        /*0040*/                   STL.64 [R1], R2 ;
        /*0050*/                   EXIT ;
.L_x_2:
        /*0060*/                   BRA `(.L_x_2);
        /*0070*/                   NOP;
"""
    listing = Listing.parse(code)
    assert len(listing.instructions) == 7
    assert listing.loops == [(1, 3)]
    assert listing.executed(4) == 1 + 4 * 3 + 3
    assert listing.count("LDG") == {"LDG.E.128": 1}
    assert listing.spilled_bytes() == 8
