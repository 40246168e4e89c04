"""Runs that are killed without warning, again and again, as users start them."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from seqformer.cli.train import main as run
from seqformer.data.synthetic import make_synthetic_dataset
from seqformer.model import load_checkpoint
from seqformer.trainer.checkpoint_folders import complete_checkpoints, step_of
from seqformer.trainer.run_log import read_training_lines

ROOT = Path(__file__).parents[2]
KILLS = 20
STEPS = 100
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    return make_synthetic_dataset(
        root, num_train=4, num_val=1, num_frames=5, height=32, width=64, seed=0
    )


def arguments(data, output: Path) -> list[str]:
    """A small run with dropout and a worker, one checkpoint per step, of 6 clips per step."""
    text = f"""train.py mini --output {output} --device cpu --auto-resume --max-steps {STEPS}
        --checkpoint-every 1 --log-every 1 --data.train-images {data.train_images}
        --data.train-annotations {data.train_annotations} --data.batch-size 2
        --data.global-batch-size 4 --data.num-frames 2 --data.num-workers 1
        --data.augment.short-sides 32 48 --data.augment.max-long-side 96
        --model.hidden-dim 32 --model.ffn-dim 32 --model.num-queries 5 --model.dropout 0.1
        --model.num-encoder-layers 1 --model.num-decoder-layers 2 --model.mask-dim 16"""
    return text.split()


def train_until_killed(words: list[str], output: Path) -> None:
    """`train.py` in a process that a server forks, which imported torch once for all of them."""
    torch.set_num_threads(1)
    with output.with_suffix(".out").open("a") as file, redirect_stdout(file), redirect_stderr(file):
        raise SystemExit(run(words))


def begin(data, output: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seqformer.trainer.trainer"])
    words = arguments(data, output)[1:]
    process = context.Process(target=train_until_killed, args=(words, output))
    process.start()
    return process


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=1500)
    assert process.returncode == 0, errors.decode()[-3000:]


def losses(output: Path) -> list[tuple[int, float]]:
    """(step, loss) with nine digits, which tell any two float32 numbers apart."""
    return [(r["step"], r["loss"]) for r in read_training_lines(output / "log.jsonl")]


def newest(output: Path) -> int:
    """Step of the newest checkpoint."""
    actual = complete_checkpoints(output)
    return step_of(actual[-1]) if actual else 0


def wait_for(condition, is_over, seconds: float = 600) -> None:
    """Until `condition` holds or the process has ended."""
    end = time.monotonic() + seconds
    while not condition() and not is_over():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.01)


def test_killed_twenty_times_equals_uninterrupted_bit_for_bit(data, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    process = begin(data, whole)
    process.join()
    assert [step for step, _ in losses(whole)] == list(range(1, STEPS + 1))

    moments = random.Random(0)
    for kill in range(KILLS):
        process = begin(data, part)
        if kill % 4 == 3:  # while it starts, or reads its checkpoint
            time.sleep(moments.uniform(0, 1))
        else:  # while it trains and writes
            before = newest(part)
            wait_for(
                lambda before=before: newest(part) > before, lambda p=process: not p.is_alive()
            )
            time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.join()
        for path in complete_checkpoints(part):
            load_checkpoint(path)
    assert 0 < len(losses(part)) < STEPS, "the kills came too late to interrupt anything"
    process = begin(data, part)
    process.join()
    assert process.exitcode == 0, part.with_suffix(".out").read_text()[-3000:]
    assert losses(part) == losses(whole)
    ours, theirs = (load_checkpoint(run / "model.safetensors").state for run in (part, whole))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.distributed
def test_torchrun_restarts_a_run_that_lost_a_process(data, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", "2", "--max-restarts", "3"]
    finish(start([*launcher, *arguments(data, whole)]))

    command = [argument for argument in arguments(data, part) if argument != "--auto-resume"]
    process = start([*launcher, *command, "--parallel", "fsdp"])
    for steps in (5, 20):
        wait_for(lambda n=steps: newest(part) >= n, lambda: process.poll() is not None)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
    finish(process)
    assert [step for step, _ in losses(part)] == list(range(1, STEPS + 1))
    for (_, a), (_, b) in zip(losses(part), losses(whole)[:20], strict=False):
        assert a == pytest.approx(b, rel=1e-3)


def children(pid: int) -> list[int]:
    """The training processes that torchrun started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    actual = []
    for child in map(int, text.split()):
        command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        actual += [child] if b"train.py" in command else []
    return actual
