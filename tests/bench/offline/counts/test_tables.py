"""Records of counts as tables of the page: what stands beside what, and in which order."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("triton") is None:
    pytest.skip("needs triton", allow_module_level=True)

from bench import counts as command
from bench.offline.counts import tables
from bench.offline.counts.store import Store

PAGE = (
    "a\n<!-- counts:begin -->\nold\n<!-- counts:end -->\nb <!-- peers:begin --><!-- peers:end -->\n"
)


def row(**changes):
    counted = ("ptx", "requests", "wavefronts", "l1_hit", "shared", "stored", "atomics")
    counted += ("atomic_sectors", "added", "l2_reads", "dram_read", "dram_write", "error")
    numbers = dict.fromkeys(counted, 1.0)
    names = {"workload": "encoder 360x640", "direction": "forward", "dtype": "float32"}
    bounds = {"bounds": {"issue": 20.0, "l1": 30.0}, "binds": "l1", "sass": None}
    return numbers | names | bounds | {"capability": 80, "gpu": "A100"} | changes


def test_ours_stands_where_a_peer_has_the_launch():
    fast = {"bounds": {"issue": 5.0, "l1": 10.0}}
    ours = [row(**fast), row(direction="backward"), row(capability=90, gpu="H100")]
    text = tables.peers(ours, [row(side="a peer"), row(side="the slowest", bounds={"l1": 40.0})])
    lines = text.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "*encoder 360x640, forward float32, A100*",
        "**ours**",
        "a peer",
        "the slowest",
    ]
    assert len({line.count("|") for line in lines}) == 1


def test_tables_go_between_the_marks():
    page = tables.with_tables(PAGE, {"counts": tables.attention([row()]), "peers": "new"})
    assert page.startswith("a\n<!-- counts:begin -->\n| | GPU |") and "old" not in page
    assert page.endswith("b <!-- peers:begin -->\nnew\n<!-- peers:end -->\n")
    with pytest.raises(ValueError, match="no marks <!-- masks:begin -->"):
        tables.with_tables(PAGE, {"masks": ""})


def test_the_page_has_the_committed_records():
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.with_tables(page, tables.tables()) == page


def test_a_store_replaces_rows_and_keeps_others(tmp_path):
    path = tmp_path / "record.json"
    store = Store(path, "a part", ("side", "capability"))
    store.enter({"side": "x", "capability": 80, "code": "1"}, {"side": "y", "capability": 90})
    again = Store(path, "a part", ("side", "capability"))
    assert again.has("1", side="x", capability=80) and again.has(side="y", capability=90)
    assert not again.has("2", side="x", capability=80) and not again.has(side="x", capability=90)
    again.enter({"side": "x", "capability": 80, "code": "2"})
    assert [row.get("code") for row in again.rows.values()] == ["2", None]
    assert Store(path, "another part", ("side",)).rows == {}


def test_a_wrong_word_is_told(capsys):
    assert command.main(["atention"]) == 2
    assert "'atention' is none of attention" in capsys.readouterr().err
