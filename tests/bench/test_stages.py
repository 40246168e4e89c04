"""The comparison with and without the stage before: what is run, and what is made of the scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import stages
from bench.stages_alone import alone
from seqformer.config import override, presets

RECORD = {
    "settings": {"stills_steps": 400, "video_steps": 8},
    "machine": "one thread of a CPU",
    "rows": [
        {"arm": arm, "seed": seed, "steps": [2, 4, 6, 8], "AP": [0.0, 0.1, 0.1, ap]}
        for arm, aps in (("stills", (0.30, 0.32, 0.34)), ("videos", (0.10, 0.14, 0.12)))
        for seed, ap in enumerate(aps)
    ],
}


@pytest.fixture
def commands(monkeypatch):
    """Commands that would be run; the scores count them."""
    seen: list[tuple[str, ...]] = []

    def run(*command: str) -> None:
        seen.append(command)
        if "--metrics" in command:
            path = Path(command[command.index("--metrics") + 1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"AP": len(seen) / 100}))

    monkeypatch.setattr(stages, "run", run)
    return seen


def test_every_seed_is_trained_twice_and_scored_four_times(commands, tmp_path):
    options = stages.Options(
        folder=tmp_path / "runs", out=tmp_path / "record.json", page=tmp_path / "page.md"
    )
    stages.main(options)
    rows = json.loads(options.out.read_text())["rows"]
    assert [(row["seed"], row["arm"]) for row in rows] == [
        (seed, arm) for seed in (0, 1, 2) for arm in ("stills", "videos")
    ]
    assert rows[0]["steps"] == [60, 120, 180, 240] and len(rows[0]["AP"]) == 4
    chains = [c for c in commands if "chain" in c]
    assert [c[c.index("--both.seed") + 1] for c in chains] == ["0", "1", "2"]
    assert all((tmp_path / "runs" / f"seed_{n}" / "data").is_symlink() for n in (0, 1, 2))
    alone_runs = [c for c in commands if "bench.stages_alone" in c]
    assert len(alone_runs) == 3 and alone_runs[0][2].endswith("seed_0/2_videos/config.json")
    before = len(commands)
    stages.main(options)  # what is scored is not scored again
    assert not any("--metrics" in c for c in commands[before:])
    assert (tmp_path / "page.svg").read_text().startswith("<?xml")


def test_the_page_tells_mean_interval_and_verdict():
    text = stages.page(RECORD, "stages.svg")
    assert "| pictures, then videos | 30.0, 32.0, 34.0 | 32.0 ± 5.0 |" in text
    assert "| videos alone | 10.0, 14.0, 12.0 | 12.0 ± 5.0 |" in text
    assert "| difference, seed by seed | 20.0, 18.0, 22.0 | 20.0 ± 5.0 |" in text
    assert "The stage before helps" in text
    worse = {**RECORD, "rows": [{**row} for row in RECORD["rows"]]}
    for row in worse["rows"]:
        row["arm"] = {"stills": "videos", "videos": "stills"}[row["arm"]]
    assert "The stage before harms" in stages.page(worse, "x")
    for number, row in enumerate(worse["rows"]):
        row["AP"] = [0.1 * (number % 3)]
    assert "No difference is shown" in stages.page(worse, "x")


def test_the_interval_is_students():
    mean, width = stages.interval([1.0, 2.0, 3.0])
    assert (mean, width) == (2.0, pytest.approx(4.303 / 3**0.5))


def test_two_seeds_give_no_interval():
    with pytest.raises(ValueError, match="3 to 10 seeds"):
        stages.Options(seeds=(0, 1))


def test_the_run_alone_differs_in_its_start_and_nothing_else(tmp_path):
    config = override(presets()["mini"][1], weights=Path("stage1/model.safetensors"))
    without = alone(config, tmp_path)
    assert without.start.weights is None and without.output == tmp_path
    assert (
        override(without, weights=config.start.weights, output=config.output, auto_resume=False)
        == config
    )


def test_the_page_is_that_of_the_record():
    record = json.loads(stages.RECORD.read_text())
    assert stages.PAGE.read_text() == stages.page(record, "stages.svg")


def test_a_run_that_fails_says_what_it_said():
    with pytest.raises(RuntimeError, match=r"nonsense ended with [12]:\n."):
        stages.run("-m", "seqformer", "nonsense")
