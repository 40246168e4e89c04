"""Make the golden numbers of OVIS's groups of occlusion with its official evaluator.

    git clone https://github.com/qjy981010/cocoapi
    python -m venv ovis && ovis/bin/pip install pycocotools trackeval==1.3.0 matplotlib
    ovis/bin/python tests/golden/make_ovis.py cocoapi

Writes `tests/golden/ovis/random.json`: the two files of a case, and what the evaluator says of
them. Its two Python files are taken as they are; `np.float`, which NumPy has dropped, is put back.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pycocotools
from make_tracking import random_case

FOLDER = Path(__file__).parent / "ovis"
LEVELS = ("no_occlusion", "slight_occlusion", "severe_occlusion")


def module(folder, name):
    """A file of the evaluator as a module of the installed pycocotools."""
    path = Path(folder) / "PythonAPI" / "pycocotools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"pycocotools.{name}", path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    setattr(pycocotools, name, loaded)
    spec.loader.exec_module(loaded)
    return loaded


def judged(folder, truth, results):
    np.float = float
    data, evaluator = module(folder, "ovis"), module(folder, "oviseval")
    classes = [
        next(v for k, v in vars(m).items() if k.upper().startswith("OVIS"))
        for m in (data, evaluator)
    ]
    with tempfile.TemporaryDirectory() as base, contextlib.redirect_stdout(io.StringIO()):
        files = [Path(base) / name for name in ("truth.json", "results.json")]
        for file, content in zip(files, (truth, results), strict=True):
            file.write_text(json.dumps(content))
        gt = classes[0](str(files[0]))
        run = classes[1](gt, gt.loadRes(str(files[1])), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    names = ("APso", "APmo", "APho")
    return {
        **{name: float(run.stats[6 + i]) for i, name in enumerate(names)},
        **{name.replace("AP", "AR"): float(run.stats[15 + i]) for i, name in enumerate(names)},
    }


if __name__ == "__main__":
    case, rng = random_case(), np.random.default_rng(3)
    for entry in case.truth["annotations"]:
        usual = rng.integers(3)
        entry["occlusion"] = [
            None if mask is None else LEVELS[usual if rng.random() < 0.6 else rng.integers(3)]
            for mask in entry["segmentations"]
        ]
    case.truth["annotations"] = [
        entry for entry in case.truth["annotations"] if any(entry["occlusion"])
    ]
    content = {"truth": case.truth, "results": case.results}
    content["expected"] = judged(sys.argv[1], case.truth, case.results)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "random.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
