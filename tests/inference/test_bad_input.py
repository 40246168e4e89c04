"""Inputs that go wrong, or look as if they should: one sentence each, and the others go on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from seqformer.cli.eval import main
from seqformer.data.frames import read_frame
from seqformer.model import save_safetensors
from seqformer.structures import ClassMap
from seqformer.visualization.video_writer import write_video
from tests.inference.small_model import film, small_model


def test_sixteen_bit_grey_and_alpha_become_rgb(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    deep = read_frame(tmp_path / "deep.png")
    assert deep.shape == (16, 16, 3) and deep.dtype == np.uint8
    np.testing.assert_allclose(deep[..., 1], ramp / 257.0, atol=1)

    grey = (ramp >> 8).astype(np.uint8)
    for mode in ("L", "LA", "RGBA", "P", "1", "CMYK"):
        picture = Image.fromarray(grey).convert("RGB").convert(mode) if mode != "LA" else None
        picture = picture or Image.fromarray(grey).convert("LA")
        picture.save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
        frame = read_frame(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
        assert frame.shape == (16, 16, 3) and frame.dtype == np.uint8
        if mode not in ("P", "1", "CMYK"):
            assert np.array_equal(frame, grey[..., None].repeat(3, axis=2))


@pytest.fixture
def videos(tmp_path):
    """Two sound videos among ten that are not, or not quite."""
    folder = tmp_path / "videos"

    def pictures(name, frames, suffix="png"):
        (folder / name).mkdir(parents=True)
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / name / f"{index}.{suffix}")

    pictures("a_sound", film(3))
    pictures("b_grey", film(3)[..., 0])
    pictures("c_deep", film(3)[..., 0].astype(np.uint16) << 8)
    pictures("d_alpha", np.concatenate([film(3), film(3)[..., :1]], axis=3))
    pictures("e_dot", np.full((2, 1, 1, 3), 90, np.uint8))
    pictures("f_sizes", film(2))
    Image.fromarray(film(1, 40, 40)[0]).save(folder / "f_sizes" / "2.png")
    pictures("g_cut", film(3), "jpg")
    cut = folder / "g_cut" / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:400])
    (folder / "h_text.mp4").write_text("no video")
    write_video(folder / "i_none.mp4", film(2))
    (folder / "i_none.mp4").write_bytes((folder / "i_none.mp4").read_bytes()[:300])
    pictures("j_thin", np.zeros((1, 3000, 1, 3), np.uint8))
    write_video(folder / "k_web.webm", film(3))
    write_video(folder / "l_loop.gif", film(3))
    return folder


FAIL = {
    "f_sizes": "frame 2 is 40x40 pixels, of another shape than the first",
    "g_cut": "1.jpg",
    "h_text": "h_text.mp4 cannot be decoded as a video",
    "i_none": "i_none.mp4 has no picture stream",
    "j_thin": "a frame of 1x3000 pixels would be enlarged",
}


@pytest.mark.parametrize("workers", ["0", "1"])
def test_every_bad_video_is_named_and_the_others_go_on(workers, videos, tmp_path, capsys):
    save_safetensors(tmp_path / "w.safetensors", small_model(), ClassMap((1, 2, 5), tuple("abc")))
    words = ["--weights", str(tmp_path / "w.safetensors"), "--images", str(videos)]
    words += ["--output", str(tmp_path / "results.json"), "--device", "cpu", "--threads", "1"]
    words += ["--short-side", "90", "--top-k", "2", "--decode-workers", workers]
    assert main(words) == 1
    errors = capsys.readouterr().err.split("eval.py: ")[-1]
    assert errors.startswith(f"{len(FAIL)} of 12 videos failed:")
    for name, message in FAIL.items():
        (line,) = [line for line in errors.splitlines() if f"({name})" in line]
        assert message in line
    assert "Traceback" not in errors
    entries = json.loads((tmp_path / "results.json").read_text())
    lengths = {e["video_id"]: len(e["segmentations"]) for e in entries}
    lengths.pop(5, None)  # whether anything is seen in a single pixel is the network's affair
    assert lengths == {1: 3, 2: 3, 3: 3, 4: 3, 11: 3, 12: 3}


def test_half_a_results_file_is_refused_in_words(tmp_path, capsys):
    truth = {"videos": [], "categories": [], "annotations": []}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    text = json.dumps([{"video_id": 1, "score": 0.5, "category_id": 1, "segmentations": [None]}])
    (tmp_path / "results.json").write_text(text[: len(text) // 2])
    words = ["--results", str(tmp_path / "results.json")]
    assert main([*words, "--annotations", str(tmp_path / "truth.json")]) == 2
    error = capsys.readouterr().err
    assert "results.json" in error and error.count("\n") == 1
