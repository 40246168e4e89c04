"""`--precision int8`: where its ranges come from, what it refuses, and the results it gives."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
import torch
from PIL import Image

from seqformer.cli.eval import main
from seqformer.config import EvalConfig, TrainConfig
from seqformer.data.video_sources import find_videos, open_video
from seqformer.distributed.context import DistributedContext
from seqformer.inference import Predictor, calibration
from seqformer.inference.calibration import NUM_FRAMES, frames_of
from seqformer.inference.run_settings import run_settings, settle_ranges
from seqformer.model import Int8Ranges, save_safetensors
from seqformer.model import int8_products as products
from seqformer.structures import ClassMap
from seqformer.visualization.video_writer import write_video
from tests.inference.small_model import film, small_model
from tests.model.test_inference_copy import build

pytestmark = pytest.mark.skipif(
    products.why_not_available() is not None, reason="this CPU has no 8-bit products"
)
WIDE = {"hidden_dim": 128, "ffn_dim": 128}
"""Sizes from which the transformer's products are integers."""


@pytest.fixture
def _no_amx(monkeypatch):
    """The transformer is a matter of integers only beside float32."""
    for module in ("network", "int8"):
        name = f"seqformer.inference.{module}.rest_of_int8"
        monkeypatch.setattr(name, lambda: torch.float32)


def predictor_of(model, **changes):
    config = EvalConfig(precision="int8", **{"short_side": 40} | changes)
    return Predictor(model, config=config, device="cpu")


def test_results_are_near_those_of_float32_and_the_same_in_any_chunks():
    model, frames = build("resnet50"), film(3, 72, 88)
    predictor = predictor_of(model, short_side=72)
    predictor.calibrate(frames[:2])
    ranges = predictor.ranges
    logits = []
    for chunk_frames in (3, 2, 1):
        predictor.config = replace(predictor.config, chunk_frames=chunk_frames)
        network = predictor.network
        pool = None
        for start in range(0, 3, chunk_frames):
            pool = network.frames(frames[start : start + chunk_frames], pool).merged_into(pool, 3)
        logits.append(network.instances(pool)[0])
    assert predictor.ranges is ranges and predictor.predict(frames).num_frames == 3
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=0, atol=5e-3)
    predictor.config = replace(predictor.config, precision="fp32")
    network = predictor.network
    expected = network.instances(network.frames(frames).merged_into(None, 3))[0]
    assert 0 < (logits[0] - expected).abs().max() < 0.1


@pytest.mark.usefixtures("_no_amx")
def test_what_is_refused(monkeypatch):
    model = small_model(**WIDE)
    predictor = predictor_of(model)
    with pytest.raises(ValueError, match=r"predictor\.calibrate\(frames\) measures them"):
        predictor.predict(film(2))
    predictor.calibrate(film(2))
    assert predictor.predict(film(2)).num_frames == 2
    assert predictor.ranges is not None
    predictor.ranges = Int8Ranges(predictor.ranges.places, "other")
    with pytest.raises(ValueError, match="measured with other weights"):
        predictor.predict(film(2))
    with pytest.raises(ValueError, match="there is none"):
        predictor.calibrate([])
    predictor.is_compiled = True
    predictor.calibrate(film(2))
    with pytest.raises(ValueError, match="int8 cannot be had: it cannot be compiled"):
        predictor.predict(film(2))
    with pytest.raises(ValueError, match="no layer of resnet_mini with 32 channels gains"):
        predictor_of(small_model()).calibrate(film(2))
    monkeypatch.setattr(products, "_has_vnni", lambda: False)
    with pytest.raises(ValueError, match="it needs a CPU with AVX512-VNNI"):
        predictor_of(model).calibrate(film(2))
    with pytest.raises(ValueError, match=r"eval\.precision int8 needs ranges"):
        TrainConfig(eval=EvalConfig(precision="int8"))


@pytest.mark.usefixtures("_no_amx")
@pytest.mark.parametrize("rest", [torch.float32, torch.bfloat16])
def test_where_bfloat16_is_better_it_is_said(rest, monkeypatch, caplog):
    predictor = predictor_of(small_model(**WIDE))
    predictor.calibrate(film(2))
    monkeypatch.setattr("seqformer.inference.network.rest_of_int8", lambda: rest)
    with caplog.at_level(logging.WARNING, logger="seqformer"):
        assert predictor.network
    assert ("--precision bf16 takes about as long" in caplog.text) == (rest == torch.bfloat16)


def folder_of_videos(folder, lengths):
    """A folder of folders of pictures, whose first pixel is (video, frame, 0)."""
    for video, length in enumerate(lengths):
        (folder / f"v{video:02d}").mkdir(parents=True)
        for t, frame in enumerate(film(length, seed=video)):
            frame[0, 0] = video, t, 0
            Image.fromarray(frame).save(folder / f"v{video:02d}" / f"{t:03d}.png")
    return folder


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([1], [(0, 0)]),
        ([16], [(0, t) for t in range(1, 16, 2)]),
        ([2, 3, 9], [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 4), (2, 7)]),
        ([3] * 20, [(v, 1) for v in (1, 3, 6, 8, 11, 13, 16, 18)]),
    ],
)
def test_frames_are_spread_over_videos(tmp_path, lengths, expected):
    sources = find_videos(folder_of_videos(tmp_path / "v", lengths))
    chosen = [tuple(frame[0, 0, :2].tolist()) for frame in frames_of(sources)]
    assert chosen == expected


def test_frames_of_a_film_and_of_a_broken_video(tmp_path, monkeypatch, caplog):
    write_video(tmp_path / "film.mp4", iter(film(20)), fps=6)
    source = open_video(tmp_path / "film.mp4")
    assert len(list(frames_of([source]))) == NUM_FRAMES
    monkeypatch.setattr(calibration, "FIRST_FRAMES", 6)
    read = []
    monkeypatch.setattr(type(source), "frames", lambda self: (read.append(f) or f for f in film(9)))
    assert len(list(frames_of([source]))) == len(read) == 6
    folder = folder_of_videos(tmp_path / "v", [1, 1])
    monkeypatch.undo()
    (folder / "v00" / "000.png").write_bytes(b"no picture")
    assert len(list(frames_of(find_videos(folder)))) == 1
    assert "is left out of the ranges for int8" in caplog.text


def must_not(*arguments):
    raise AssertionError("measured again")


@pytest.mark.usefixtures("_no_amx")
def test_a_run_that_is_continued_keeps_its_ranges(tmp_path, monkeypatch):
    sources = find_videos(folder_of_videos(tmp_path / "v", [2]))
    (tmp_path / "weights").write_bytes(b"weights")
    settings = []

    def settle(stored, **changes):
        predictor = predictor_of(small_model(**WIDE), **changes)
        settings.append(run_settings(tmp_path / "weights", predictor.config, sources))
        settle_ranges(predictor, sources, None, stored, settings[-1], DistributedContext())
        return predictor.ranges

    ranges = settle({})
    stored = json.loads(json.dumps(settings[0]))
    monkeypatch.setattr("seqformer.inference.predictor.measured_ranges", must_not)
    assert settle(stored) == ranges and settings[0] == settings[1] == stored
    with pytest.raises(AssertionError, match="measured again"):
        settle(stored, top_k=3)


@pytest.mark.usefixtures("_no_amx")
def test_an_evaluation_measures_keeps_and_reads_ranges(tmp_path, monkeypatch, capsys):
    model = small_model(**WIDE)
    save_safetensors(tmp_path / "m.safetensors", model, ClassMap((1, 2, 3), ("a", "b", "c")))
    folder_of_videos(tmp_path / "v", [2, 3])
    output, ranges = tmp_path / "out" / "results.json", tmp_path / "ranges" / "r.json"

    def command(precision, *more):
        return main(
            [
                *("--weights", f"{tmp_path}/m.safetensors", "--images", f"{tmp_path}/v"),
                *("--output", f"{output}", "--short-side", "40", "--device", "cpu"),
                *("--threads", "1", "--precision", precision, *more),
            ]
        )

    assert command("int8", "--int8-ranges", f"{ranges}") == 0
    results, stored = output.read_bytes(), Int8Ranges.load(ranges)
    predictor = predictor_of(model)
    predictor.calibrate(frames_of(find_videos(tmp_path / "v")))
    assert predictor.ranges == stored

    measured = calibration.measured_ranges
    monkeypatch.setattr("seqformer.inference.predictor.measured_ranges", must_not)
    assert command("int8", "--int8-ranges", f"{ranges}") == 0
    assert output.read_bytes() == results
    monkeypatch.setattr("seqformer.inference.predictor.measured_ranges", measured)
    assert command("int8") == 0
    assert output.read_bytes() == results, "the same where they are measured anew"

    wide = json.loads(ranges.read_text())
    wide["places"] = {name: [-1e3, 1e3] for name in wide["places"]}
    ranges.write_text(json.dumps(wide))
    assert command("int8", "--int8-ranges", f"{ranges}") == 0
    assert output.read_bytes() != results, "the file decides"
    assert command("fp32", "--int8-ranges", f"{ranges}") == 2
    assert "--int8-ranges is for --precision int8" in capsys.readouterr().err
    assert command("int8", "--images", "camera:0") == 2
    assert "--int8-ranges names a file of them" in capsys.readouterr().err
