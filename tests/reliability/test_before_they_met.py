"""A process that is killed before all have met, or never starts, leaves nobody waiting."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from seqformer.data.synthetic import make_synthetic_dataset
from tests.reliability.jobs import Job, start, wait_until

SECONDS = 30
"""Of a busy machine; alone it is two. A collective's time limit is 30 minutes."""

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> dict[str, list[str]]:
    """Commands by program; neither gets so far that it reads much."""
    root = tmp_path_factory.mktemp("early")
    data = make_synthetic_dataset(
        root, num_train=2, num_val=1, num_frames=2, height=32, width=64, seed=0
    )
    train = f"""mini --device cpu --output {root / "run"} --data.num-workers 0
        --data.train-images {data.train_images} --data.train-annotations {data.train_annotations}"""
    evaluate = f"""--device cpu --output {root / "out" / "results.json"} --images {data.val_images}
        --weights {data.val_annotations}"""
    return {"train.py": train.split(), "eval.py": evaluate.split()}


def is_there(pid: int) -> bool:
    """Whether a process has its name in the run."""
    sockets = {line.split()[6] for line in announced_sockets()}
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(handle.readlink())
        except OSError:
            continue
        if target.startswith("socket:[") and target[8:-1] in sockets:
            return True
    return False


def announced_sockets() -> list[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()
    return [line for line in lines if "@seqformer-" in line]


def check_end(job: Job, rank: int, program: str, said: str) -> None:
    code = {"train.py": 1, "eval.py": 2}[program]
    began = time.monotonic()
    job.processes[rank].join(SECONDS)
    took, text = time.monotonic() - began, job.text()
    assert job.processes[rank].exitcode == code, f"{job.codes(0)} after {took:.1f} s\n{text}"
    assert f"{program}: rank {rank}: error: another process of this run ended or is missing" in text
    assert said in text and "Traceback" not in text and "unexpected" not in text


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("program", ["train.py", "eval.py"])
def test_one_of_two_is_killed_while_the_other_waits_for_it(program, killed, words, tmp_path):
    job = start(program, words[program], tmp_path / "log", 2)
    try:
        assert wait_until(lambda: is_there(job.pids[killed]), 60)
        job.send(signal.SIGSTOP, killed)  # where it is now, mostly before it would meet
        assert wait_until(lambda: is_there(job.pids[1 - killed]), 60)
        time.sleep(2)
        assert job.codes(0) == [None, None], job.text()
        job.send(signal.SIGKILL, killed)
        check_end(job, 1 - killed, program, f"rank {killed} ended before all had met")
    finally:
        job.close()


@pytest.mark.parametrize("program", ["train.py", "eval.py"])
def test_one_of_two_is_never_started(program, words, tmp_path):
    job = start(program, words[program], tmp_path / "log", 1, world_size=2, never_came_seconds=1)
    try:
        check_end(job, 0, program, "rank 1 of this machine has not begun 1 s after rank 0")
    finally:
        job.close()


def test_asked_to_end_while_it_waits(words, tmp_path):
    """Training only remembers a request; there is nothing to save yet."""
    job = start("train.py", words["train.py"], tmp_path / "log", 1, world_size=2)
    try:
        assert wait_until(lambda: is_there(job.pids[0]), 60)
        time.sleep(2)
        job.send(signal.SIGTERM)
        assert job.codes(SECONDS) == [143], job.text()
        assert "rank 0: stopped by SIGTERM; --resume goes on" in job.text()
    finally:
        job.close()
