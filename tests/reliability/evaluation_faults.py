"""What happens to an evaluation: one function per kind, for `test_chaos.py`."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from seqformer.inference.results_file import partial_paths
from tests.reliability.jobs import Fault, Job, fill_the_disk, start, wait_until


@dataclass
class Scene:
    """An evaluation that is disturbed.

    Attributes:
        output: its results file.
        words: its command line.
        frames: of the videos.
        mend: undoes what would last.
    """

    output: Path
    words: Sequence[str]
    frames: list[Path]
    random: random.Random
    mend: list[Callable[[], None]] = field(default_factory=list)

    def finished(self) -> int:
        """Videos on disk."""
        count = 0
        for path in partial_paths(self.output):
            with suppress(FileNotFoundError):
                count += max(0, path.read_bytes().count(b"\n") - 1)
        return count


def kill_one(job: Job, scene: Scene) -> None:
    job.send(signal.SIGKILL, scene.random.randrange(len(job.processes)))


def kill_all(job: Job, scene: Scene) -> None:
    job.send(signal.SIGKILL)


def stop_for_a_while(job: Job, scene: Scene) -> None:
    rank = scene.random.randrange(len(job.processes))
    job.send(signal.SIGSTOP, rank)
    time.sleep(scene.random.uniform(0.2, 2))
    job.send(signal.SIGCONT, rank)


def ask_all_to_end(job: Job, scene: Scene) -> None:
    job.send(signal.SIGTERM)


def kill_a_helper(job: Job, scene: Scene) -> None:
    helpers = [pid for rank in range(len(job.processes)) for pid in job.helpers(rank)]
    if helpers:
        with suppress(ProcessLookupError):
            os.kill(scene.random.choice(helpers), signal.SIGKILL)


def break_what_is_kept(job: Job, scene: Scene) -> None:
    job.send(signal.SIGKILL)
    job.codes(60)
    for path in partial_paths(scene.output):
        content = path.read_bytes()
        broken = (content[: len(content) // 2], content + b'{"video_id": 7, "ent', b"")
        path.write_bytes(scene.random.choice(broken))


def break_a_frame(job: Job, scene: Scene) -> None:
    frame = scene.frames[-1]
    content = frame.read_bytes()
    scene.mend.append(lambda: frame.write_bytes(content))
    frame.write_bytes(content[:20])


def start_a_second(job: Job, scene: Scene) -> None:
    second = start("eval.py", scene.words, scene.output.with_suffix(".second"))
    assert wait_until(lambda: not second.is_running(), 60), "the second one hangs"
    if job.is_running():
        assert second.codes(0) == [2] and "is in use by another process" in second.text()


KILLED = -signal.SIGKILL
FAULTS = {
    "kill -9 of one process": Fault(
        kill_one,
        codes=(2, KILLED),
        said=("another process of this run ended",),
        early_codes=(),
    ),
    "kill -9 of all": Fault(kill_all, codes=(KILLED,), early_codes=()),
    "SIGSTOP, then SIGCONT": Fault(stop_for_a_while, goes_on=True, codes=(0,)),
    "SIGTERM to the group": Fault(
        ask_all_to_end,
        codes=(143,),
        said=("stopped by SIGTERM",),
        early_codes=(143, -signal.SIGTERM),  # not even a handler yet
    ),
    "a decoding process is killed": Fault(kill_a_helper, goes_on=True, codes=(0,)),
    "full disk": Fault(lambda job, scene: fill_the_disk(job), codes=(2,), said=("cannot write",)),
    "finished videos on disk broken": Fault(break_what_is_kept, codes=(KILLED,)),
    "a frame broken": Fault(break_a_frame, codes=(1, 0), said=("videos failed",)),
    "a second evaluation begins": Fault(start_a_second, goes_on=True, codes=(0,)),
}
