"""The demo's record: which commands are run, and where the scores end up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import demo


@pytest.fixture
def commands(monkeypatch):
    """Commands that would be run; each leaves scores that tell it apart."""
    seen: list[tuple[str, ...]] = []

    def run(*command: str) -> float:
        seen.append(command)
        key = "--metrics" if "--metrics" in command else "--output"
        path = Path(command[command.index(key) + 1])
        if key == "--output":
            path = path / "metrics.json"
            path.parent.mkdir()
        path.write_text(json.dumps(dict.fromkeys(demo.SCORES, len(seen) / 10)))
        return float(len(seen))

    monkeypatch.setattr(demo, "run", run)
    return seen


def test_every_run_is_a_case_with_its_scores(commands, tmp_path):
    out = tmp_path / "record.json"
    demo.main(demo.Options(precisions=("fp32", "bf16"), arguments="--max-steps 3", out=out))
    rows = json.loads(out.read_text())["cases"]
    assert [row["name"] for row in rows] == [
        "demo on 1 process",
        "demo on 2 processes",
        "demo evaluated in float32",
        "demo evaluated in bfloat16",
    ]
    assert [row["sides"]["ours"]["more"]["AP"] for row in rows] == [0.1, 0.2, 0.3, 0.4]
    assert [row["sides"]["ours"]["seconds"]["median"] for row in rows] == [1, 2, 3, 4]
    one, two, *evaluations = commands
    assert one[0] == "train.py" and one[-2:] == ("--processes", "1")
    assert two[1] == "torch.distributed.run" and "--processes" not in two
    weights = Path(one[one.index("--output") + 1]) / "model.safetensors"
    assert all(str(weights) in evaluation for evaluation in evaluations)


def test_a_run_that_fails_says_what_it_said(tmp_path):
    with pytest.raises(RuntimeError, match=r"train\.py nonsense ended with [12]:\n."):
        demo.run("train.py", "nonsense")
