"""What happens to a training run: one function per kind, for `test_chaos.py`."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from seqformer.trainer.checkpoint_folders import checkpoint_folders, step_of
from seqformer.trainer.run_log import read_log
from tests.reliability.jobs import Fault, Job, fill_the_disk


@dataclass
class Scene:
    """A run that is disturbed.

    Attributes:
        output: its folder.
        frames: the training frames.
        nan_flag: see `jobs.start`.
        mend: undoes what would last.
    """

    output: Path
    frames: list[Path]
    nan_flag: Path
    random: random.Random
    mend: list[Callable[[], None]] = field(default_factory=list)

    def newest(self) -> int:
        """Step of the newest checkpoint."""
        found = checkpoint_folders(self.output)
        return step_of(found[-1]) if found else 0

    def logged(self) -> int:
        """The last step in the log."""
        return max((record["step"] for record in read_log(self.output / "log.jsonl")), default=0)


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


def kill_a_worker(job: Job, scene: Scene) -> None:
    helpers = job.helpers(scene.random.randrange(len(job.processes)))
    if helpers:
        with suppress(ProcessLookupError):
            os.kill(scene.random.choice(helpers), signal.SIGKILL)


def break_the_newest_checkpoint(job: Job, scene: Scene) -> None:
    job.send(signal.SIGKILL)
    job.codes(60)
    folders = checkpoint_folders(scene.output)
    if len(folders) < 2:
        return
    file = scene.random.choice([path for path in folders[-1].iterdir() if path.is_file()])
    content = file.read_bytes()
    middle = len(content) // 2
    broken = (
        content[:middle],
        b"",
        content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
        b"null",
        None,
    )
    content = scene.random.choice(broken)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)


def break_frames(job: Job, scene: Scene) -> None:
    for frame in scene.frames:
        if frame.name == "00000.jpg":  # those are looked at when a run begins
            continue
        content = frame.read_bytes()
        scene.mend.append(lambda frame=frame, content=content: frame.write_bytes(content))
        other = frame.with_suffix(".new")
        other.write_bytes(content[: len(content) // 3])
        other.replace(frame)


def make_a_loss_nan(job: Job, scene: Scene) -> None:
    scene.nan_flag.touch()
    scene.mend.append(lambda: scene.nan_flag.unlink(missing_ok=True))


KILLED = -signal.SIGKILL
FAULTS = {
    "kill -9 of one process": Fault(
        kill_one,
        codes=(1, KILLED),
        said=("another process of this run ended",),
        early_codes=(),
    ),
    "kill -9 of all": Fault(kill_all, codes=(KILLED,), early_codes=()),
    "SIGSTOP, then SIGCONT": Fault(stop_for_a_while, goes_on=True),
    "SIGTERM to the group": Fault(
        ask_all_to_end,
        codes=(0,),
        said=("stopped after step",),
        early_codes=(143, -signal.SIGTERM),  # nothing to save yet; not even a handler yet
    ),
    "a decoding process is killed": Fault(
        kill_a_worker, codes=(1,), said=("a decoding process ended",)
    ),
    "full disk": Fault(
        lambda job, scene: fill_the_disk(job),
        codes=(1,),
        said=("cannot write", "could not be written", "cannot be handed over"),
    ),
    "newest checkpoint broken": Fault(break_the_newest_checkpoint, codes=(KILLED,)),
    "frames broken": Fault(break_frames, codes=(1,), said=(".jpg",)),
    "NaN on one process": Fault(make_a_loss_nan, codes=(1,), said=("is not finite",)),
}
