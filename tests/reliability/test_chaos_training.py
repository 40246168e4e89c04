"""A training run on two processes, under accidents of every kind, ends as if there had been none.

Each accident comes at a random moment of a run that was started, or started again, by the same
command. After it the run goes on, or all its processes end within a minute, in words and without a
traceback. The default run has a few accidents, `-m slow` many; `-s` prints the table of
docs/verification.md.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from seqformer.data.synthetic import make_synthetic_dataset
from seqformer.model import load_checkpoint
from seqformer.trainer.run_log import read_training_lines
from tests.reliability.jobs import (
    EARLY_SECONDS,
    EARLY_SHARE,
    Job,
    check_end,
    in_turn,
    start,
    table,
    wait_until,
)
from tests.reliability.training_faults import FAULTS, Scene

PROCESSES, STEPS = 2, 40
LONGEST = 60.0
"""Seconds from an accident to the end of all processes, or to the next step."""
INTERVAL = 30.0
"""Seconds between two accidents, for the share of steps that are done once."""

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    return make_synthetic_dataset(
        root, num_train=4, num_val=1, num_frames=5, height=32, width=64, seed=0
    )


def command(data, output: Path) -> list[str]:
    return f"""mini --output {output} --device cpu --auto-resume --max-steps {STEPS}
        --checkpoint-every 3 --log-every 1 --max-skipped-steps 0 --data.max-broken-share 0
        --data.train-images {data.train_images} --data.train-annotations {data.train_annotations}
        --data.batch-size 1 --data.num-frames 2 --data.num-workers 1
        --data.augment.short-sides 32 48 --data.augment.max-long-side 96 --parallel ddp
        --model.hidden-dim 32 --model.ffn-dim 32 --model.num-queries 5 --model.dropout 0.1
        --model.num-encoder-layers 1 --model.num-decoder-layers 2 --model.mask-dim 16""".split()


def losses(output: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_training_lines(output / "log.jsonl")]


class Disturbed:
    """Runs that are disturbed, one after the other; each is compared with an undisturbed one."""

    def __init__(self, data, folder: Path) -> None:
        self.data, self.folder, self.random = data, folder, random.Random(0)
        self.frames = sorted(data.train_images.rglob("*.jpg"))
        self.whole = folder / "whole"
        self.job = start("train.py", command(data, self.whole), folder / "log", PROCESSES)
        self.finish()
        times = [r["time"] for r in read_training_lines(self.whole / "log.jsonl")]
        self.rate = (len(times) - 1) / (times[-1] - times[0])
        self.runs = self.early = 0
        self.scene = self.next_scene()
        self.seconds, self.repeated = defaultdict(list), defaultdict(list)

    def next_scene(self) -> Scene:
        self.runs += 1
        flag = self.folder / "nan"
        return Scene(self.folder / f"run{self.runs}", self.frames, flag, self.random)

    def begin(self, is_early: bool = False) -> None:
        """Start the run, or start it again, and wait for a step of its own, or not so long."""
        self.job = start(
            "train.py",
            command(self.data, self.scene.output),
            self.folder / "log",
            PROCESSES,
            self.scene.nan_flag,
        )
        if is_early:
            assert wait_until(self.job.begun, 60)
            time.sleep(self.random.uniform(0, EARLY_SECONDS))
            return
        moves = wait_until(
            lambda: f"/{STEPS}  loss" in self.job.text() or not self.job.is_running(), 120
        )
        assert moves, f"no step in two minutes\n{self.job.text()[-4000:]}"

    def finish(self) -> None:
        codes = self.job.codes(600)
        assert codes == [0] * PROCESSES, f"{codes}\n{self.job.text()[-4000:]}"

    def strike(self, name: str) -> None:
        """One accident, in a run that goes on; a finished one is compared, and a new one begun."""
        fault, is_early = FAULTS[name], False
        if not self.job.is_running():
            if (self.scene.output / "model.safetensors").exists():
                self.finish()
                self.compare()
                self.scene = self.next_scene()
            is_early = fault.early_codes is not None and self.random.random() < EARLY_SHARE
            self.begin(is_early)
        if not is_early:
            time.sleep(self.random.uniform(0, 0.5))
        self.early += is_early
        logged = self.scene.logged()
        fault.happen(self.job, self.scene)
        if fault.goes_on:
            began = time.monotonic()
            moves = wait_until(
                lambda: self.scene.logged() > logged or not self.job.is_running(), LONGEST
            )
            assert moves, f"{name}: no step\n{self.job.text()[-4000:]}"
            self.seconds[name].append(time.monotonic() - began)
            self.repeated[name].append(0)
            return
        self.seconds[name].append(
            check_end(self.job, name, fault, LONGEST, "finished after", is_early)
        )
        self.job.close()
        while self.scene.mend:
            self.scene.mend.pop()()
        # What an earlier accident took is not taken again where no step was done since.
        has_trained = f"/{STEPS}  loss" in self.job.text()
        lost = self.scene.logged() - self.scene.newest() if has_trained else 0
        self.repeated[name].append(max(0, lost))
        assert not self.repeated[name][-1] or name != "SIGTERM to the group"

    def compare(self) -> None:
        """Losses, weights, and nothing left behind."""
        output = self.scene.output
        assert losses(output) == losses(self.whole)
        ours, theirs = (
            load_checkpoint(run / "model.safetensors").state for run in (output, self.whole)
        )
        assert [n for n, tensor in theirs.items() if not torch.equal(ours[n], tensor)] == []
        left = [p.name for p in output.rglob("*") if p.suffix in (".tmp", ".lock", ".incomplete")]
        assert left == [] and not (output / ".lock").exists()


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(4, id="a few"),
        pytest.param(60, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(7200)]),
    ],
)
def test_disturbed_runs_equal_an_undisturbed_one(data, tmp_path, count):
    disturbed = Disturbed(data, tmp_path)
    try:
        for name in in_turn(FAULTS, count, disturbed.random):
            disturbed.strike(name)
        if not disturbed.job.is_running():
            disturbed.begin()
        disturbed.finish()
        disturbed.compare()
    finally:
        disturbed.job.close()
    table("training", disturbed.seconds, disturbed.repeated)
    again = sum(map(sum, disturbed.repeated.values())) / count
    share = 1 - again / (INTERVAL * disturbed.rate)
    print(
        f"{count} accidents ({disturbed.early} early) in {disturbed.runs} runs of {STEPS} steps, "
        f"{disturbed.rate:.1f} steps a second: with one every {INTERVAL:.0f} s, {share:.1%} of the "
        "steps are done once"
    )
    assert share > 0.85


def test_a_second_run_in_a_folder_is_refused_at_once(data, tmp_path):
    words = command(data, tmp_path / "run")
    first = start("train.py", words, tmp_path / "first")
    try:
        assert wait_until(lambda: losses(tmp_path / "run"), 120), first.text()
        began = time.monotonic()
        second: Job = start("train.py", words, tmp_path / "second")
        assert second.codes(60) == [1] and time.monotonic() - began < 30
        assert "is in use by another process" in second.text()
        assert first.codes(300) == [0], first.text()[-4000:]
    finally:
        first.close()
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, STEPS + 1))
