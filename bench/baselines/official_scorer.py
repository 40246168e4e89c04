"""The official evaluator of YouTube-VIS: a checkout of github.com/youtubevos/cocoapi.

    SEQFORMER_COCOAPI=.../PythonAPI python -m bench.baselines.official_scorer ANNOTATIONS RESULTS

The variable names its folder PythonAPI. Its C extension need not be built, as that of the installed
pycocotools, which comes from the same C source, serves. Imports no torch.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pycocotools

VARIABLE = "SEQFORMER_COCOAPI"


def official_scores(modules: tuple[ModuleType, ModuleType], annotations: str, results: str) -> Any:
    """The twelve numbers, [12] float64. `modules` as `official_modules` gives them."""
    truths, scorers = modules
    with _old_numpy(), redirect_stdout(io.StringIO()):
        truth = truths.YTVOS(annotations)
        scorer = scorers.YTVOSeval(truth, truth.loadRes(results), "segm")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return np.asarray(scorer.stats, np.float64)


def official_modules(folder: Path) -> tuple[ModuleType, ModuleType]:
    """`ytvos` and `ytvoseval` of a checkout, as modules of the installed package."""
    package = folder / "pycocotools"
    if not (package / "ytvoseval.py").is_file():
        raise FileNotFoundError(
            f"{package / 'ytvoseval.py'} does not exist; {VARIABLE} must name the folder PythonAPI "
            "of a checkout of github.com/youtubevos/cocoapi"
        )
    if str(package) not in pycocotools.__path__:
        pycocotools.__path__.append(str(package))
    with _old_numpy():
        names = ("pycocotools.ytvos", "pycocotools.ytvoseval")
        truths, scorers = (importlib.import_module(name) for name in names)
    return truths, scorers


@contextmanager
def _old_numpy() -> Iterator[None]:
    """What is gone from NumPy 2 and is all that keeps the official code from running."""
    linspace = np.linspace

    def old_linspace(start: Any, stop: Any, num: Any = 50, **options: Any) -> np.ndarray:
        return linspace(start, stop, int(num), **options)

    with (
        mock.patch.object(np, "float", float, create=True),
        mock.patch.object(np, "linspace", old_linspace),
    ):
        yield


def main() -> None:
    """Print the twelve numbers as JSON."""
    modules = official_modules(Path(os.environ[VARIABLE]))
    print(json.dumps(official_scores(modules, *sys.argv[1:3]).tolist()))


if __name__ == "__main__":
    main()
