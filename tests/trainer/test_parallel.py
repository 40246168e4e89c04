"""Two gloo processes must do what one does on the same global batch."""

import math
import multiprocessing
from pathlib import Path

import pytest
import torch

from seqformer.criterion import SetCriterion
from seqformer.model import build_model_from_config
from seqformer.trainer import trainer
from seqformer.trainer.optim import build_optimizer
from seqformer.trainer.parallel import Parallel, parallel_session
from seqformer.trainer.progress import LossWindow, NonFiniteLossError
from seqformer.trainer.step import training_step
from tests.trainer.tiny import build_tiny_loader, make_batch, tiny_config, tiny_model_config

STEPS = 2


def two_steps(parallel: Parallel, clips: range) -> dict:
    """Two steps from fixed weights, in float64 but for the losses; one clip has no instances."""
    torch.manual_seed(0)
    model = build_model_from_config(tiny_model_config()).double()
    optimizer = build_optimizer(model, tiny_config(None).optim)
    wrapped = parallel.wrap(model)
    for step in range(STEPS):
        batch = make_batch(0, step, clips)
        batch.images = batch.images.double()
        count = torch.tensor(float(sum(len(t["labels"]) for t in batch.targets)))
        count = parallel.mean(count).clamp(min=1)
        training_step(wrapped, SetCriterion(), optimizer, batch, count, 1.0)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"gradients": gradients, "weights": model.state_dict()}


def run_rank(rank: int, folder: Path) -> None:
    """What each of two processes does: two bare steps, then a whole run."""
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    with parallel_session("cpu", rank=rank, world_size=2, rendezvous=meet) as parallel:
        state = two_steps(parallel, range(rank, rank + 1))
        torch.save(state, folder / f"rank{rank}.pth")
        assert parallel.gather(rank) == [0, 1]
        window = LossWindow(parallel)
        loss = torch.tensor(math.nan if rank == 1 else 1.0)
        window.add(7, [f"clip of {rank}"], {"loss": loss, "grad_norm": torch.tensor(1.0)})
        with pytest.raises(NonFiniteLossError, match=r"step 7: .* on clips: clip of 1$"):
            window.fetch()  # on both processes, so that none is left waiting
    config = tiny_config(folder / "run", max_steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "build_train_loader", build_tiny_loader)
        trainer.train(config, rank=rank, world_size=2, rendezvous=meet + "_again")


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path):
    other = multiprocessing.get_context("spawn").Process(target=run_rank, args=(1, tmp_path))
    other.start()
    alone = two_steps(Parallel(), range(2))
    run_rank(0, tmp_path)
    other.join(timeout=30)
    if other.is_alive():  # seen once: done, but stuck in the library's teardown; checked below
        other.kill()
    else:
        assert other.exitcode == 0
    for rank in range(2):
        state = torch.load(tmp_path / f"rank{rank}.pth", weights_only=True)
        for kind in ("gradients", "weights"):
            assert state[kind].keys() == alone[kind].keys()
            for name, expected in alone[kind].items():
                torch.testing.assert_close(
                    state[kind][name], expected, rtol=1e-5, atol=1e-8, msg=f"{rank} {kind} {name}"
                )
    # The whole loop on two processes: one log, one checkpoint with both generators.
    saved = torch.load(tmp_path / "run/checkpoint.pth", weights_only=True)
    assert len(saved["rng"]) == 2
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 2


def test_missing_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device"), parallel_session("cuda"):
        pass
