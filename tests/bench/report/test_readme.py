"""Figures of the README: computed from records, found in the report, and up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.report import compile_table, gpu_status, modelled, readme
from bench.report.history import Records, load
from bench.report.page import PLOTS, Inputs, page
from bench.report.readme_figures import FIGURES, Compiled, Figure, Measured
from bench.suite.cases import all_cases
from bench.suite.record import RESULTS
from tests.bench.report.fabricated_records import CPU, GPU, case, fabricate, write

ROOT = Path(__file__).parents[3]
STEP = {"op": "training step", "shapes": {"T": 5, "H": 192}}


@pytest.fixture
def records(tmp_path):
    made = [fabricate(CPU, 1, 1, part="cpu", noise=1e-6, load=3)]
    made += [fabricate(GPU, 2, 2, noise=1e-6)]
    return load(write(tmp_path, *made))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Measured(what="share", **STEP), "0.50"),
        (Measured(what="speed-up", op="msda encoder", direction="forward"), "9.0"),
        (Measured(what="memory share", **STEP), "0.50"),
        (Measured(what="peak MiB", **STEP), "1,400"),
        (Measured(what="operators", **STEP), "1,200"),
        (Measured(what="operator share", **STEP), "0.20"),
        (Measured(what="wall share", op="inference"), "0.45"),
        (Measured(what="speed-up", side="published", of="published", **STEP), "1.0"),
        (Measured(what="peak MiB", op="training step", shapes={"T": 10}, along="T"), "2,600"),
        (Measured(what="share", side="a peer", **STEP), None),
        (Measured(what="share", op="training step", shapes={"T": 36}), None),
    ],
)
def test_figures(records, value, text):
    assert value.text(records) == text


def test_a_figure_comes_from_the_newest_cpu_record(tmp_path):
    chosen = [(case("mask head", "mask head"), 1.0, 10, gain) for gain in (2.0, 4.0)]
    made = [
        fabricate(CPU | {"device": name}, day, day, noise=1e-6, part="cpu", chosen=[found])
        for (name, day), found in zip((("old CPU", 1), ("new CPU", 2)), chosen, strict=True)
    ]
    assert Measured(what="share", op="mask head").text(load(write(tmp_path, *made))) == "0.25"


def test_rows_without_records_are_left_out_of_the_readme_and_listed(records):
    known = Figure(claim="a", command="c", result="{}", values=(Measured(what="share", **STEP),))
    unknown = Figure(claim="b", command="c", result="{}", values=(Measured(what="share", op="no"),))
    assert readme.block(records, (known, unknown)).splitlines()[2:] == ["| a | `c` | 0.50 |"]
    assert readme.section(records, (known, unknown)).endswith("Not measured yet: b.")


def test_compiled_figures_are_those_of_the_table():
    value = Compiled(column="spills", case="msda .*", targets=("80", "90"))
    assert value.text(Records()) == "0"
    assert Compiled(column="per_row", case="msda", targets=("80",)).text(Records()) is None


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.claim[:40])
def test_every_result_has_a_place_for_each_of_its_values(figure):
    assert figure.result.count("{}") == len(figure.values)


def test_the_block_is_replaced_and_nothing_else():
    text = f"head\n{readme.BEGIN}\nold\n{readme.END}\ntail\n"
    new = readme.rewritten(text, "| new |")
    assert new == f"head\n{readme.BEGIN}\n\n| new |\n\n{readme.END}\ntail\n"
    assert readme.rewritten(new, "| new |") == new
    for broken in ("no block", f"{readme.END}{readme.BEGIN}", readme.BEGIN):
        with pytest.raises(ValueError, match=r"README\.md needs one line"):
            readme.rewritten(broken, "x")


def first_record(device: str, day: int, **extra):
    """Of `bench.gpu --part first`, on a GPU that nobody has."""
    made = fabricate(GPU | {"device": device}, day, day, part="first", noise=1e-6)
    launches = {"deformable_attention.forward_kernel": 9, "deformable_attention.backward_kernel": 6}
    checks = [{"name": "a", "dtype": "float32", "relative_error": {"output": 1e-7}}]
    counts = [{"launch": "attention forward", "count": "load sectors", "agrees": True}]
    made["extra"] |= {"launches": launches, "checks": checks, "counts": counts} | extra
    return made


def test_without_a_gpu_record_the_readme_says_so(tmp_path):
    only_cpu = load(write(tmp_path, fabricate(CPU, 1, 1, part="cpu")))
    assert gpu_status.paragraph(only_cpu) == gpu_status.NONE == gpu_status.paragraph(Records())


def test_the_readme_changes_with_the_newest_gpu_record(tmp_path):
    made = [fabricate(CPU, 3, 3, part="cpu")]
    made += [first_record("NVIDIA H200", 1, failed_checks=["float32 output: 1.0e+00"])]
    said = gpu_status.paragraph(load(write(tmp_path, *made)))
    assert said.startswith("On NVIDIA H200 (2026-11-01, commit 0000001, `--part first`): ")
    assert "**failed: float32 output: 1.0e+00**" in said
    text = gpu_status.paragraph(load(write(tmp_path, first_record("NVIDIA H200", 2))))
    assert "2026-11-02" in text and "nothing failed" in text and "failed:" not in text
    assert "2 of 2 kernels ran and 1 checks against float64 were done" in text
    assert "1 of 1 predicted memory counts agree" in text
    assert "deformable attention of the encoder, forward (float32) 0.50 ms" in text
    assert "9.00 times as fast as published" in text and "training step (float32) 4.00 s" in text
    readme_text = (
        f"a\n{readme.BEGIN}\n{readme.END}\nb\n{readme.GPU_BEGIN}\nold\n{readme.GPU_END}\nc"
    )
    new = readme.rewritten(readme_text, "| t |", text)
    assert text in new and "old" not in new and new.startswith("a\n") and new.endswith("\nc")


def test_a_stage_that_raised_and_a_kernel_that_did_not_run_are_said(tmp_path):
    launches = {"deformable_attention.forward_kernel": 9, "deformable_attention.backward_kernel": 0}
    failures = {f"stage {i}": "RuntimeError: no" for i in range(5)}
    made = first_record("NVIDIA A100", 1, launches=launches, failures=failures)
    said = gpu_status.paragraph(load(write(tmp_path, made)))
    assert "1 of 2 kernels ran" in said and "and 2 more" in said
    assert "stage 0: RuntimeError: no" in said


def test_two_gpus_are_two_paragraphs(tmp_path):
    made = [first_record("NVIDIA H200", 1), first_record("NVIDIA V100", 2)]
    said = gpu_status.paragraph(load(write(tmp_path, *made)))
    assert said.count("\n\n") == 1 and "NVIDIA V100" in said.split("\n\n")[1]


def test_the_committed_report_is_what_the_records_give():
    found = page(
        Inputs(records=load(RESULTS), declared=modelled.read(), compiled=compile_table.rows())
    )
    assert (ROOT / "bench" / "REPORT.md").read_text() == found, "run python -m bench.report"
    shown = {x.split(f"]({PLOTS}/")[1].rstrip(")") for x in found.splitlines() if x[:2] == "!["}
    assert {p.name for p in (ROOT / "bench" / PLOTS).glob("*.svg")} == shown


def test_the_readme_quotes_what_the_records_give():
    text = (ROOT / "README.md").read_text()
    table = readme.headlines(load(RESULTS))
    gpus = gpu_status.paragraph(load(RESULTS))
    assert readme.rewritten(text, table, gpus) == text, "run python -m bench.report"
    report = (ROOT / "bench" / "REPORT.md").read_text()
    rows = table.splitlines()[2:]
    assert len(rows) == 7 and all(row in report for row in rows)


def test_modelled_devices_are_those_of_the_declared_cases():
    """Costs themselves are counted anew by the slow test below."""
    asked = {row["name"]: row for row in modelled.asked(all_cases("gpu"))}
    costs = ("bytes", "flops", "half_flops")
    for row in modelled.read():
        kept = {key: value for key, value in row.items() if key not in costs}
        assert kept == asked.get(row["name"]), f"{row['name']}: run python -m bench.report"


@pytest.mark.slow
def test_costs_are_as_last_counted():
    assert modelled.declared(all_cases("gpu")) == modelled.read()
