"""An evaluation on two processes, under accidents of every kind, writes the same bytes in the end.

Each accident comes at a random moment of a command that is given until it is done. After it the
command goes on, or all its processes end within a minute, in words and without a traceback. The
default run has a few accidents, `-m slow` many; `-s` prints the table of docs/verification.md.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image

from seqformer.model import save_safetensors
from seqformer.structures import ClassMap
from tests.inference.small_model import film, small_model
from tests.reliability.evaluation_faults import FAULTS, Scene
from tests.reliability.jobs import (
    EARLY_SECONDS,
    EARLY_SHARE,
    check_end,
    in_turn,
    start,
    table,
    wait_until,
)

PROCESSES, VIDEOS = 2, 40
LONGEST = 60.0
"""Seconds from an accident to the end of all processes."""

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_safetensors(path, small_model(), ClassMap((1, 2, 5), ("a", "b", "c")))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("videos"), random.Random(0)
    for number in range(VIDEOS):
        place = folder / f"v{number:02}"
        place.mkdir()
        frames = film(rng.randint(4, 16), *rng.choice([(40, 56), (48, 36)]), seed=number)
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(place / f"{index}.png")
    return folder


def command(weights: Path, videos: Path, output: Path) -> list[str]:
    return f"""--weights {weights} --images {videos} --output {output} --device cpu --threads 1
        --short-side 32 --top-k 4 --chunk-frames 3 --decode-workers 1""".split()


class Disturbed:
    """Evaluations that are disturbed, one after the other."""

    def __init__(self, weights: Path, videos: Path, folder: Path) -> None:
        self.weights, self.videos, self.folder = weights, videos, folder
        self.random, self.frames = random.Random(1), sorted(videos.rglob("*.png"))
        self.runs = self.early = 0
        self.seconds = defaultdict(list)
        self.scene = self.next_scene()
        self.whole = self.finish()
        self.scene = self.next_scene()

    def next_scene(self) -> Scene:
        self.runs += 1
        output = self.folder / f"out{self.runs}" / "results.json"
        words = command(self.weights, self.videos, output)
        return Scene(output, words, self.frames, self.random)

    def begin(self) -> None:
        self.job = start("eval.py", self.scene.words, self.folder / "log", PROCESSES)

    def finish(self) -> bytes:
        """Give the command once more, undisturbed."""
        self.begin()
        codes = self.job.codes(600)
        assert codes == [0] * PROCESSES, f"{codes}\n{self.job.text()[-4000:]}"
        return self.scene.output.read_bytes()

    def strike(self, name: str) -> None:
        """One accident; what is done afterwards is compared."""
        fault = FAULTS[name]
        is_early = fault.early_codes is not None and self.random.random() < EARLY_SHARE
        before = self.scene.finished()
        self.begin()
        if is_early:
            assert wait_until(self.job.begun, 60)
            time.sleep(self.random.uniform(0, EARLY_SECONDS))
        else:
            moves = wait_until(
                lambda: self.scene.finished() > before or not self.job.is_running(), 120
            )
            assert moves, f"no video in two minutes\n{self.job.text()[-4000:]}"
            time.sleep(self.random.uniform(0, 0.2))
        self.early += is_early
        fault.happen(self.job, self.scene)
        took = check_end(self.job, name, fault, LONGEST, "% (waiting", is_early)
        self.seconds[name].append(took)
        is_done = self.job.codes(0) == [0] * PROCESSES
        self.job.close()
        while self.scene.mend:
            self.scene.mend.pop()()
        if self.scene.output.exists():
            assert (self.scene.output.read_bytes() if is_done else self.finish()) == self.whole
            self.check_folder()
            self.scene = self.next_scene()

    def check_folder(self) -> None:
        names = {path.name for path in self.scene.output.parent.iterdir()}
        assert names - {"results.second"} == {"results.json"}


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(5, id="a few"),
        pytest.param(45, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(7200)]),
    ],
)
def test_disturbed_evaluations_write_the_same_bytes(weights, videos, tmp_path, count):
    disturbed = Disturbed(weights, videos, tmp_path)
    try:
        for name in in_turn(FAULTS, count, disturbed.random):
            disturbed.strike(name)
        assert disturbed.finish() == disturbed.whole
        disturbed.check_folder()
    finally:
        disturbed.job.close()
    table("evaluation", disturbed.seconds, {})
    print(
        f"{count} accidents ({disturbed.early} early) in {disturbed.runs} evaluations of {VIDEOS} "
        "videos"
    )
