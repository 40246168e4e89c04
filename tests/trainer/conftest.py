"""Fixtures of the trainer's tests."""

from collections.abc import Iterator

import pytest

from seqformer.trainer import trainer
from tests.trainer.lasting_processes import LastingProcesses
from tests.trainer.tiny import build_tiny_loader


@pytest.fixture
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips made on the fly instead of read from files, and no picture of the losses."""
    monkeypatch.setattr(trainer, "build_train_loader", build_tiny_loader)
    monkeypatch.setattr(trainer, "plot_losses", lambda log_path, png_path: None)


@pytest.fixture(scope="session")
def lasting_processes() -> Iterator[LastingProcesses]:
    """Three waiting processes."""
    waiting = LastingProcesses(3)
    yield waiting
    waiting.close()
