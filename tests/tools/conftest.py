"""Small drawn data sets on disk, and a way to run a command on them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seqformer.data.synthetic import make_synthetic_dataset

NUM_VIDEOS, NUM_FRAMES, HEIGHT, WIDTH = 6, 4, 48, 64


@dataclass
class Dataset:
    """Where it lies and what is in it; change `content` and call `save`."""

    root: Path
    content: dict[str, Any]

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def annotations(self) -> Path:
        return self.root / "instances.json"

    def save(self) -> Path:
        self.annotations.write_text(json.dumps(self.content))
        return self.annotations


@pytest.fixture(scope="session")
def _template(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("drawn")
    paths = make_synthetic_dataset(
        root / "set", num_train=1, num_val=NUM_VIDEOS, num_frames=NUM_FRAMES, height=HEIGHT,
        width=WIDTH, seed=5,
    )  # fmt: skip
    shutil.copytree(paths.val_images, root / "images")
    return Dataset(root, json.loads(paths.val_annotations.read_text()))


@pytest.fixture
def dataset(_template, tmp_path) -> Dataset:
    """The data set with files of its own."""
    root = tmp_path / "data"
    shutil.copytree(_template.images, root / "images")
    data = Dataset(root, copy.deepcopy(_template.content))
    data.save()
    return data


@pytest.fixture
def fails(capsys) -> Callable[..., str]:
    """Run a command that must be refused with exit code 2; gives its one sentence."""

    def run(main: Callable[[list[str]], int], *arguments: Any) -> str:
        capsys.readouterr()
        assert main(list(map(str, arguments))) == 2
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if not line.startswith("INFO")]
        assert len(lines) == 1 and ": error: " in lines[0], captured.err
        assert captured.out == ""
        return lines[0]

    return run
