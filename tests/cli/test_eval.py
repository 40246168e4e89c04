"""The evaluation command from the outside: files, exit codes and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seqformer.cli.eval import main, scored_files
from seqformer.data.video_reader import read_video
from seqformer.inference import predictor as predictor_module
from seqformer.inference.predictor import Predictor
from seqformer.model import build_model, save_safetensors
from seqformer.structures import ClassMap
from seqformer.visualization.video_writer import write_video
from tests.evaluation.ytvis_problems import annotation, problem, rectangle, result

ROOT = Path(__file__).resolve().parents[2]
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}]
SMALL = ["--short-side", "32", "--top-k", "3", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    model = build_model(
        "resnet_mini",
        num_classes=2,
        hidden_dim=32,
        num_queries=4,
        num_encoder_layers=1,
        num_decoder_layers=1,
        ffn_dim=32,
        mask_dim=8,
    )
    torch.nn.init.constant_(model.controller.layers[-1].bias[-1:], 0.5)  # masks with pixels
    path = tmp_path_factory.mktemp("weights") / "mini.safetensors"
    save_safetensors(path, model, ClassMap((3, 8), ("cat", "dog")))
    return path


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Three videos of two frames; `valid.json` without annotations."""
    rng = np.random.default_rng(0)
    videos = []
    for number in (4, 2, 9):
        names = [f"video{number}/{t:05d}.jpg" for t in (0, 5)]
        (tmp_path / "images" / f"video{number}").mkdir(parents=True)
        for name in names:
            frame = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
            Image.fromarray(frame).save(tmp_path / "images" / name)
        videos.append(
            {"id": number, "file_names": names, "height": 40, "width": 56, "length": len(names)}
        )
    content = {"videos": videos, "categories": CATEGORIES, "annotations": None}
    (tmp_path / "valid.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def command(dataset, weights) -> list[str]:
    return [
        "--weights",
        str(weights),
        "--images",
        str(dataset / "images"),
        "--annotations",
        str(dataset / "valid.json"),
        "--output",
        str(dataset / "out" / "results.json"),
        *SMALL,
    ]


@pytest.fixture
def predicted(monkeypatch) -> list[int]:
    """One entry per video that goes through the model."""
    calls = []
    original = Predictor.predict_resized

    def counting(self, frames):
        calls.append(len(calls))
        return original(self, frames)

    monkeypatch.setattr(Predictor, "predict_resized", counting)
    return calls


def add_ground_truth(dataset: Path, results: list[dict]) -> Path:
    """An annotation file in which every first result of a video is the truth."""
    content = json.loads((dataset / "valid.json").read_text())
    first = {r["video_id"]: r for r in reversed(results)}
    content["annotations"] = [
        {
            "id": i,
            "video_id": video_id,
            "category_id": result["category_id"],
            "iscrowd": 0,
            "segmentations": result["segmentations"],
            "bboxes": [[0, 0, 9, 9]] * 2,
            "areas": [81, 81],
        }
        for i, (video_id, result) in enumerate(first.items(), start=1)
    ]
    path = dataset / "train.json"
    path.write_text(json.dumps(content))
    return path


def read(dataset: Path) -> list[dict]:
    return json.loads((dataset / "out" / "results.json").read_text())


def test_results_of_all_videos_in_file_order(command, dataset, predicted):
    assert main(command) == 0
    results = read(dataset)
    ids = [r["video_id"] for r in results]
    assert ids == sorted(ids, key=[4, 2, 9].index) and set(ids) == {4, 2, 9}
    assert {r["category_id"] for r in results} <= {3, 8}
    assert {r["video_name"] for r in results} == {"video4/000", "video2/000", "video9/000"}
    assert all(s["size"] == [40, 56] for r in results for s in r["segmentations"])
    assert len(predicted) == 3
    assert sorted(p.name for p in (dataset / "out").iterdir()) == ["results.json"]


def test_ground_truth_is_scored(command, dataset, capsys):
    assert main(command) == 0
    truth = add_ground_truth(dataset, read(dataset))
    command[command.index("--annotations") + 1] = str(truth)
    outputs = ["--metrics", str(dataset / "out" / "metrics.json")]
    outputs += ["--report", str(dataset / "out" / "report")]
    assert main([*command, *outputs]) == 0
    page = (dataset / "out" / "report" / "index.html").read_text()
    assert page.count("data:image/webp") == 6 and "results.json against train.json" in page
    assert "AP50" in capsys.readouterr().out
    assert json.loads((dataset / "out" / "metrics.json").read_text())["AP"] > 0


def test_broken_video_is_named_and_the_others_go_on(command, dataset, predicted, capsys):
    frame = dataset / "images" / "video2" / "00005.jpg"
    whole = frame.read_bytes()
    frame.write_bytes(whole[: len(whole) // 2])
    assert main(command) == 1
    assert {r["video_id"] for r in read(dataset)} == {4, 9}
    error = capsys.readouterr().err
    assert "1 of 3 videos failed" in error and "video 2 (video2)" in error
    assert "00005.jpg" in error and "Traceback" not in error

    frame.write_bytes(whole)  # repaired: the same command runs what was missing
    del predicted[:]
    assert main(command) == 0
    assert len(predicted) == 1
    assert {r["video_id"] for r in read(dataset)} == {4, 2, 9}
    assert sorted(p.name for p in (dataset / "out").iterdir()) == ["results.json"]


def test_interrupted_run_is_continued(command, dataset, predicted, monkeypatch, capsys):
    original = Predictor.predict_resized

    def dies_at_second(self, frames):
        if len(predicted) == 1:
            raise KeyboardInterrupt
        return original(self, frames)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict_resized", dies_at_second)
        assert main(command) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert main(command) == 0
    assert len(predicted) == 3  # 1 before, 2 after
    continued = read(dataset)
    assert main(command) == 0
    assert len(predicted) == 6  # nothing is kept of a finished run
    assert read(dataset) == continued


def test_other_settings_or_fresh_start_over(command, dataset, predicted, capsys):
    (dataset / "images" / "video2" / "00005.jpg").unlink()
    assert main(command) == 1
    assert main([*command, "--top-k", "2"]) == 1
    assert len(predicted) == 8  # a failed video is tried twice
    assert main([*command, "--top-k", "2", "--fresh"]) == 1
    assert len(predicted) == 12


def test_diverged_weights_are_explained(command, dataset, weights, tmp_path, capsys):
    predictor = Predictor.from_checkpoint(weights, device="cpu")
    predictor.model.class_embed[0].weight.data.fill_(3e38)  # finite, but its outputs are not
    path = tmp_path / "diverged.safetensors"
    save_safetensors(path, predictor.model, predictor.classes)
    command[1] = str(path)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "video 4 (video4): the model's outputs contain NaN or infinity" in error
    assert read(dataset) == []


def test_empty_video_is_explained(command, dataset, capsys):
    content = json.loads((dataset / "valid.json").read_text())
    content["videos"][1].update(file_names=[], length=0)
    (dataset / "valid.json").write_text(json.dumps(content))
    assert main(command) == 2
    assert "(id 2) has no frames" in capsys.readouterr().err


def test_frames_of_another_size_than_listed_are_warned_about(command, dataset, caplog):
    content = json.loads((dataset / "valid.json").read_text())
    content["videos"][1].update(height=80, width=112)
    (dataset / "valid.json").write_text(json.dumps(content))
    assert main(command) == 0
    assert "video 2 (video2) has frames of (40, 56)" in caplog.text
    assert "video 4" not in caplog.text


def test_other_categories_are_warned_about(command, dataset, caplog):
    content = json.loads((dataset / "valid.json").read_text())
    content["categories"] = [{"id": 3, "name": "lizard"}, {"id": 5, "name": "duck"}]
    (dataset / "valid.json").write_text(json.dumps(content))
    assert main(command) == 0
    assert "3 is 'lizard' in the file, 'cat' in the checkpoint" in caplog.text
    assert "not known to the checkpoint, which will never find them: 5 (duck)" in caplog.text
    assert "not listed in the file: 8 (dog)" in caplog.text


@pytest.mark.parametrize("kind", ["folder", "folders", "video"])
def test_without_annotation_file(kind, dataset, weights):
    images = {"folder": dataset / "images" / "video4", "folders": dataset / "images"}
    if kind == "video":
        frames = [np.full((40, 56, 3), 50 * i, np.uint8) for i in range(3)]
        write_video(dataset / "movie.mp4", frames, fps=12)
    out = dataset / "out"
    command = ["--weights", str(weights), *SMALL, "--output", str(out / "results.json")]
    command += ["--images", str(images.get(kind, dataset / "movie.mp4"))]
    command += ["--visualize", str(out / "drawn"), "--visualize-min-score", "0"]
    assert main(command) == 0
    drawn = sorted(p.name for p in (out / "drawn").iterdir())
    expected = {
        "folder": ["video4.mp4"],
        "folders": ["video2.mp4", "video4.mp4", "video9.mp4"],
        "video": ["movie.mp4"],
    }
    assert drawn == expected[kind]
    assert {r["video_id"] for r in read(dataset)} == set(range(1, len(drawn) + 1))


def test_existing_results_are_scored_and_drawn(command, dataset, capsys):
    assert main(command) == 0
    truth = add_ground_truth(dataset, read(dataset))
    with zipfile.ZipFile(dataset / "submission.zip", "w") as archive:
        archive.write(dataset / "out" / "results.json", "results.json")
    again = ["--results", str(dataset / "submission.zip"), "--annotations", str(truth)]
    assert main([*again, "--metrics", str(dataset / "m.json")]) == 0
    assert "AP50" in capsys.readouterr().out
    assert json.loads((dataset / "m.json").read_text())["AP50"] > 0
    draw = ["--images", str(dataset / "images"), "--visualize", str(dataset / "drawn")]
    look = ["--visualize-format", "png", "--visualize-min-score", "0"]
    assert main([*again, *draw, *look]) == 0
    assert len(list((dataset / "drawn").glob("*/*.png"))) == 6


def test_clip_matching_half_precision_and_ground_truth_beside(command, dataset):
    assert main(command) == 0
    truth = add_ground_truth(dataset, read(dataset))
    command[command.index("--annotations") + 1] = str(truth)
    clips = ["--mode", "clips", "--clip-length", "2", "--clip-stride", "1", "--precision", "bf16"]
    look = ["--visualize", str(dataset / "drawn"), "--visualize-truth"]
    more = ["--visualize-format", "webm", "--visualize-min-score", "0"]
    assert main([*command, *clips, *look, *more]) == 0
    assert {r["video_id"] for r in read(dataset)} == {4, 2, 9}
    frames = list(read_video(dataset / "drawn" / "video2.webm"))
    assert [f.shape for f in frames] == [(262, 676, 3)] * 2  # two of 336x240, and titles


def test_scoring_does_not_import_torch(command, dataset):
    assert main(command) == 0
    truth = add_ground_truth(dataset, read(dataset))
    arguments = ["--results", str(dataset / "out" / "results.json"), "--annotations", str(truth)]
    code = (
        "import runpy, sys\n"
        f"sys.argv = {['eval.py', *arguments]!r}\n"
        "try:\n"
        "    runpy.run_path('eval.py', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0, stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "AP50" in done.stdout


USAGE_ERRORS = {
    "nothing": ([], "either --weights"),
    "both": (["--weights", "w", "--results", "r"], "either --weights"),
    "no images": (["--weights", "w", "--output", "o"], "needs --images"),
    "no output": (["--weights", "w", "--images", "i"], "needs --output"),
    "results alone": (["--results", "r"], "--results needs --annotations"),
    "idle images": (["--results", "r", "--annotations", "a", "--images", "i"], "only used"),
    "draw on nothing": (["--results", "r", "--visualize", "v"], "needs --images"),
    "output": (["--results", "r", "--annotations", "a", "--output", "o"], "--output only"),
    "top-k": (["--results", "r", "--annotations", "a", "--top-k", "3"], "--top-k"),
    "metrics": (
        ["--weights", "w", "--images", "i", "--output", "o", "--metrics", "m"],
        "--metrics",
    ),
    "mode": (["--results", "r", "--annotations", "a", "--mode", "clips"], "--mode"),
    "parts of the AP alone": (
        ["--results", "r", "--annotations", "a", "--ap-only", "--long-from", "9"],
        "--ap-only leaves out",
    ),
    "idle workers": (
        ["--results", "r", "--annotations", "a", "--decode-workers", "2"],
        "--decode-workers",
    ),
    "stride": (
        ["--weights", "w", "--images", "i", "--output", "o", "--clip-stride", "99"],
        "clip_stride",
    ),
    "no threads": (
        ["--weights", "w", "--images", "i", "--output", "o", "--threads", "0"],
        "--threads must be at least 1",
    ),
    "truth of nothing": (
        ["--results", "r", "--images", "i", "--visualize", "v", "--visualize-truth"],
        "--visualize-truth needs --annotations",
    ),
    "idle format": (
        ["--weights", "w", "--images", "i", "--output", "o", "--visualize-format", "gif"],
        "--visualize-format needs --visualize",
    ),
    "zero": (
        ["--weights", "w", "--images", "i", "--output", "o", "--short-side", "0"],
        "at least 1",
    ),
    "no weights file": (["--weights", "w", "--images", "i", "--output", "o"], "w does not exist"),
    "no results file": (["--results", "r", "--annotations", "a"], "r does not exist"),
    "report": (
        ["--weights", "w", "--images", "i", "--output", "o", "--report", "r"],
        "--report needs --annotations",
    ),
}


@pytest.mark.parametrize("case", USAGE_ERRORS)
def test_usage_errors_are_one_sentence(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, message = USAGE_ERRORS[case]
    try:
        code = main(arguments)
    except SystemExit as stop:  # from the parser
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("eval.py: error: ") and error.count("\n") == 1


def test_unknown_flag_has_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--wieghts", "x"])
    assert stop.value.code == 2
    assert "--wieghts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--output", "images/video4/00000.jpg/x/results.json", "cannot write into"),
        ("--output", "images", "is a folder"),
        ("--images", "nowhere", "does not exist"),
        ("--images", "images/video4/00000.jpg", "must be a folder"),
        ("--annotations", "nowhere.json", "does not exist"),
        ("--annotations", "images/video4/00000.jpg", "00000.jpg"),
        ("--metrics", "m.json", "has no annotations"),
        ("--report", "r", "--report needs ground truth"),
        ("--visualize", "images/video4/00000.jpg", "cannot write into"),
    ],
)
def test_paths_are_checked_before_the_model(
    flag, value, message, command, dataset, monkeypatch, capsys
):
    def too_early(*_, **__):
        raise AssertionError("the model was built before the paths were checked")

    monkeypatch.setattr(predictor_module, "model_from_checkpoint", too_early)
    assert main([*command, flag, str(dataset / value)]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_broken_weights_are_refused(command, weights, dataset, capsys):
    assert main([*command, "--backbone", "resnet50"]) == 2
    assert "use --backbone resnet_mini" in capsys.readouterr().err
    path = dataset / "cut.safetensors"
    path.write_bytes(weights.read_bytes()[:999])
    assert main([*command, "--weights", str(path)]) == 2
    assert "not a readable safetensors file" in capsys.readouterr().err


def test_scoring_the_public_validation_file_gives_minus_one_everywhere(command, dataset, capsys):
    assert main(command) == 0
    results = str(dataset / "out" / "results.json")
    metrics = dataset / "out" / "m.json"
    arguments = ["--annotations", str(dataset / "valid.json"), "--metrics", str(metrics)]
    assert main(["--results", results, *arguments]) == 0
    written = json.loads(metrics.read_text())
    assert {written[name] for name in ("AP", "AP50", "AR100", "ARl")} == {-1}


def test_scoring_alone_needs_no_parser():
    """The same files and options, whichever way they are read."""
    words = ["--results", "r", "--annotations", "a"]
    files = {"results": "r", "annotations": "a"}
    assert scored_files(words) == files
    more = scored_files([*words[:2], "--ap-only", *words[2:], "--threads", "3", "--metrics", "m"])
    assert more == files | {"ap-only": "yes", "threads": "3", "metrics": "m"}
    for others in (["--threads", "0"], ["--threads", "x"], ["--ap-only", "--ap-only"], ["--mode"]):
        assert scored_files([*words, *others]) is None
    assert scored_files(words[:2]) is None and scored_files([*words, *words]) is None


def test_the_ap_alone(tmp_path, capsys):
    track = [rectangle(2, 3)] * 2
    (tmp_path / "t.json").write_text(json.dumps(problem([annotation(track)])))
    (tmp_path / "r.json").write_text(json.dumps([result(track)]))
    words = ["--results", str(tmp_path / "r.json"), "--annotations", str(tmp_path / "t.json")]
    written = []
    for more in ([], ["--ap-only"], ["--ap-only", "--allow-broken"]):  # the last one is parsed
        file = tmp_path / "m.json"
        assert main([*words, "--metrics", str(file), *more]) == 0
        written.append((json.loads(file.read_text()), capsys.readouterr().out))
    (both, shown), (alone, short), parsed = written
    assert parsed == (alone, short) and "HOTA" in shown and "HOTA" not in short
    assert both.pop("tracking") and both == alone
