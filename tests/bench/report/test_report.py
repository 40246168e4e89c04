"""The page from fabricated records: its parts, its command, and what it says of bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.report import modelled, regressions
from bench.report.__main__ import command
from bench.report.history import Records, load
from bench.report.page import Inputs, page
from tests.bench.report.fabricated_records import CPU, GPU, cases, fabricate, write

ROOT = Path(__file__).parents[3]


@pytest.fixture
def both(tmp_path):
    """Two records of a CPU and of a GPU; the mask head became slower on the GPU."""
    slow = {"mask head": 1.2}
    write(
        tmp_path,
        fabricate(CPU, 1, 1, part="cpu"),
        fabricate(CPU, 2, 2, part="cpu", load=3),
        fabricate(GPU, 3, 3, noise=0.01),
        fabricate(GPU, 4, 4, noise=0.01, slowdowns=slow),
    )
    return load(tmp_path)


def text_of(records: Records) -> str:
    return page(Inputs(records=records, declared=modelled.declared(case for case, *_ in cases())))


def test_every_case_ratio_and_fraction_is_on_the_page(both):
    text = text_of(both)
    for case, *_ in cases():
        assert text.count(f"| {case.name} |") >= 2, case.name
    measured = text.split("## Measured: NVIDIA H200")[1].split("## Measured")[0]
    line = next(x for x in measured.splitlines() if x.startswith("| msda forward"))
    assert "9.0" in line and "x, 2.00x" in line
    assert "% (issue)" in line
    assert "clips/s" in measured and "1,200 operators (published: 6,000 operators)" in measured


def test_a_regression_is_named_on_top_and_alone(both):
    assert [x.case for x in regressions.compared(both) if x.is_named] == ["mask head"]
    top = text_of(both).split("## Regressions")[0]
    assert "**mask head** on NVIDIA H200: time 2" in top
    assert "from `0000003` (2026-11-03) to `0000004` (2026-11-04)" in top


def test_a_measured_device_leaves_the_modelled_ones(both):
    text = text_of(both).split("## Devices not measured")[1]
    header = next(x for x in text.splitlines() if x.startswith("| case"))
    assert "H200" not in header
    assert "V100 SXM2 (16 or 32 GB): floor, modelled" in header
    alone = text_of(Records()).split("## Devices not measured")[1]
    assert "H200: floor, modelled" in alone
    assert "µs (issue)*" in alone


def test_no_records_at_all():
    text = text_of(Records())
    assert "Nothing is measured yet" in text
    assert "nothing can be compared" in text


def test_records_whose_cases_differ_show_each_in_its_newest(tmp_path):
    first, second = fabricate(CPU, 1, 1, part="cpu"), fabricate(CPU, 2, 2, part="cpu")
    second["cases"] = second["cases"][:2]
    newest = load(write(tmp_path, first, second)).newest(CPU["device"])
    dates = {name: case.record.date[:10] for name, case in newest.items()}
    assert dates["msda both"] == "2026-11-02"
    assert dates["mask head"] == "2026-11-01"
    assert len(newest) == len(cases())
    text = text_of(load(tmp_path)).split("## Measured")[1]
    line = {x.split(" |")[0]: x for x in text.splitlines()}
    assert line["| msda both"].endswith("| `0000002` |")
    assert line["| mask head"].endswith("| `0000001` |")
    assert "0000001-cpu.json)" in text and "0000002-cpu.json)" in text


def test_a_side_of_an_earlier_record_keeps_that_records_ratio(tmp_path):
    old = fabricate(GPU, 1, 1, part="peers")
    new = fabricate(GPU, 2, 2, sides=("ours",), load=5)
    case = load(write(tmp_path, old, new)).newest(GPU["device"])["mask head"]
    assert case.record.part == "ops"
    assert case.older == {"published"}
    row = next(row for row in old["cases"] if row["name"] == "mask head")
    assert case.time_ratio("published") == row["ratios"]["published"]["time"]


def test_cases_that_cannot_be_judged_are_listed_with_the_reason(tmp_path):
    old, new = (fabricate(CPU, day, day, part="cpu", sides=("ours",)) for day in (1, 2))
    text = regressions.section(regressions.compared(load(write(tmp_path, old, new))))
    reason = "- on Fabricated CPU, the baseline, published, was not measured beside it: msda "
    assert reason in text
    assert text.count("was not measured beside it") == 1


def test_parts_of_one_run_are_not_compared_with_each_other(tmp_path):
    """A run of peers right after that of the operators must not hide what became slower."""
    slow = {case.name: 1.5 for case, *_ in cases()}
    records = load(
        write(
            tmp_path,
            *(fabricate(GPU, 1, 1, part=part) for part in ("ops", "peers")),
            *(fabricate(GPU, 2, 2, part=part, slowdowns=slow) for part in ("ops", "peers")),
        )
    )
    assert all(x.is_named for x in regressions.compared(records))


@pytest.mark.parametrize(
    "content", ['{"schema": 1', '{"schema": 2}', "[]", '{"schema": 1, "cases": [{"name": "x"}]}']
)
def test_a_broken_record_is_one_clear_sentence(tmp_path, content, capsys):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "broken.json").write_text(content)
    assert command(["--results", str(tmp_path), "--out", str(tmp_path / "REPORT.md")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "broken.json is not a benchmark record of schema 1" in said


@pytest.mark.parametrize("name", ["", "gone", "file"])
def test_a_place_without_records_empties_no_page(tmp_path, name, capsys):
    (tmp_path / "file").touch()
    out = tmp_path / "REPORT.md"
    out.write_text("of before")
    assert command(["--results", str(tmp_path / name), "--out", str(out)]) == 1
    assert "holds no records; nothing is written" in capsys.readouterr().err
    assert out.read_text() == "of before"


def test_files_older_than_the_schema_are_left_out_by_name(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "old.json").write_text('{"machine": {}, "tasks": {}}')
    records = load(tmp_path)
    assert not records.records
    assert "`cpu/old.json`" in text_of(records)


def test_check_fails_on_a_regression_and_writes_nothing(tmp_path, capsys):
    results = tmp_path / "results"
    write(results, fabricate(GPU, 1, 1, noise=0.01), fabricate(GPU, 2, 2, noise=0.01))
    out = tmp_path / "REPORT.md"
    arguments = ["--results", str(results), "--out", str(out), "--check"]
    assert command(arguments) == 0
    write(results, fabricate(GPU, 3, 3, noise=0.01, slowdowns={"encoder layer": 1.2}))
    assert command(arguments) == 1
    assert "encoder layer on NVIDIA H200: time 2" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.usefixtures("both")
def test_one_command_writes_the_page_and_every_figure_that_it_shows(tmp_path):
    out = tmp_path / "REPORT.md"
    done = subprocess.run(
        [sys.executable, "-m", "bench.report", "--results", str(tmp_path), "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    links = [x.split("](")[1].rstrip(")") for x in out.read_text().splitlines() if x[:2] == "!["]
    assert links and all((out.parent / link).is_file() for link in links)
