"""Figures of the README: computed from records, found in the report, and up to date."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_records import CPU, GPU, case, fabricate, write

from bench.cases import all_cases
from bench.readme_figures import FIGURES, Compiled, Figure, Measured
from bench.record import RESULTS
from bench.report import compiled, modelled, readme
from bench.report.page import PLOTS, Inputs, page
from bench.report.records import Records, load

ROOT = Path(__file__).parents[2]
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
    assert readme.section(records, (known, unknown)).endswith("not in the README: b.")


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


def test_the_committed_report_is_what_the_records_give():
    found = page(Inputs(records=load(RESULTS), declared=modelled.read(), compiled=compiled.rows()))
    assert (ROOT / "bench" / "REPORT.md").read_text() == found, "run python -m bench.report"
    shown = {x.split(f"]({PLOTS}/")[1].rstrip(")") for x in found.splitlines() if x[:2] == "!["}
    assert {p.name for p in (ROOT / "bench" / PLOTS).glob("*.svg")} == shown


def test_the_readme_quotes_what_the_records_give():
    text = (ROOT / "README.md").read_text()
    table = readme.block(load(RESULTS))
    assert readme.rewritten(text, table) == text, "run python -m bench.report"
    assert table in (ROOT / "bench" / "REPORT.md").read_text()


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
