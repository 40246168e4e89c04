"""Fixtures of the trainer's tests."""

from collections.abc import Iterator

import pytest

from seqformer.trainer import trainer
from tests.trainer.gang import Gang
from tests.trainer.tiny import build_tiny_loader


@pytest.fixture
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips made on the fly instead of read from files, and no picture of the losses."""
    monkeypatch.setattr(trainer, "build_train_loader", build_tiny_loader)
    monkeypatch.setattr(trainer, "plot_losses", lambda log_path, png_path: None)


@pytest.fixture(scope="session")
def gang() -> Iterator[Gang]:
    """Three waiting processes."""
    waiting = Gang(3)
    yield waiting
    waiting.close()
