"""Machine code of the graph: what it computes, and that none of it runs unasked."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from seqformer.export.graph import ClipGraph
from seqformer.export.native import NativeGraph
from seqformer.export.sampling import in_plain_operators
from seqformer.inference.predictor import Predictor
from tests.export.files import CONFIG, SIZES, clip, exported, graph, predictor, same_predictions
from tests.export.test_foreign_files import changed
from tests.inference.small_model import film, small_model


def native_graph() -> ClipGraph:
    return NativeGraph(small_model(), in_plain_operators, CONFIG.top_k).eval()


@pytest.mark.parametrize("size", SIZES)
def test_graph_computes_what_the_other_does(size):
    images, state = clip(*size), graph().empty_state()
    with torch.no_grad():
        results, expected = native_graph()(images, state), graph()(images, state)
    for got, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_machine_code_is_not_read_unasked(tmp_path):
    path = tmp_path / "native.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("native/version", "3")
        archive.writestr("native/data/aotinductor/model/a.so", b"\x7fELF")
    with pytest.raises(ValueError, match=r"native\.pt2 holds machine code.*run_native_code=True"):
        Predictor.from_exported(path, "cpu")


def test_device_is_the_one_that_it_was_made_for(tmp_path):
    path = tmp_path / "gpu.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("gpu/version", "3")
        name = "gpu/data/aotinductor/model/a.wrapper_metadata.json"
        archive.writestr(name, '{"AOTI_DEVICE_KEY": "cuda"}')
    with pytest.raises(ValueError, match=r"gpu\.pt2 is compiled for 'cuda', not 'cpu'"):
        Predictor.from_exported(path, "cpu", run_native_code=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="compiles for the GPU of this machine, and torch sees no"):
        predictor().export(tmp_path / "gpu.pt2", "aoti-cuda")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_inductor_gets_the_kernels_of_a_whole_model():
    """Traced for a GPU that is not there: a launch per layer and one of the mask head, whose
    inputs are not copied; and sizes stay on the host."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.export.traced_native"],
        cwd=Path(__file__).parents[2],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    attention, masks = ["levels_kernel", ["output"]], ["numbers_kernel", ["out"]]
    assert found["launches"] == [attention, attention, attention, masks]
    assert found["size devices"] == 8 * ["cpu"] and found["other devices"] == ["meta"]


@pytest.mark.slow
def test_damage_is_one_sentence(tmp_path):
    path = changed(
        exported("pt2"), tmp_path / "broken.pt2", {"data/aotinductor/model/a.so": b"\x7fELF"}
    )
    with pytest.raises(ValueError, match=r"broken\.pt2 is damaged") as raised:
        Predictor.from_exported(path, "cpu", run_native_code=True)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_package_runs_where_seqformer_is_missing(tmp_path):
    sizes = [*SIZES, (1, 33, 33), (3, 35, 67)]
    clips, state = [clip(*size) for size in sizes], graph().empty_state()
    torch.save((clips, state), tmp_path / "inputs.pt")
    script = f"""
import sys, torch
from torch._inductor import aoti_load_package
run = aoti_load_package({str(exported("aoti"))!r})
clips, state = torch.load("inputs.pt")
torch.save([list(run(images, state)) for images in clips], "results.pt")
assert not any(name.partition(".")[0] in ("seqformer", "kernels") for name in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for images, results in zip(clips, torch.load(tmp_path / "results.pt"), strict=True):
        with torch.no_grad():
            expected = graph()(images, state)
        for got, wanted in zip(results, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_predictor_gives_the_same_tracks():
    ours = Predictor.from_exported(exported("aoti"), "cpu", run_native_code=True)
    frames = film(5)
    same_predictions(ours.predict(frames), predictor().predict(frames))
