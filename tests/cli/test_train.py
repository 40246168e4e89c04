"""The command line: presets, overrides, messages."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from seqformer.cli.train import parse
from seqformer.config import DemoConfig, presets

ROOT = Path(__file__).parents[2]


def test_every_preset_parses_without_overrides():
    for name, (_, config) in presets().items():
        assert parse([name]) == config


def test_fields_are_overridden_at_every_level():
    arguments = "r50 --output x --max-steps 7 --seed 3 --resume --data.num-frames 3 --optim.lr 0.1"
    arguments += " --model.num-queries 9 --data.augment.flip-prob 0 --no-drop-class-heads"
    config = parse(arguments.split())
    assert (config.output, config.max_steps, config.seed) == (Path("x"), 7, 3)
    assert config.checkpoint.resume
    assert (config.data.num_frames, config.optim.lr, config.model.num_queries) == (3, 0.1, 9)
    assert config.data.augment.flip_prob == 0 and not config.start.drop_class_heads
    assert isinstance(parse(["demo", "--processes", "2"]), DemoConfig)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "name a preset"),
        (["r51"], "no preset 'r51'; did you mean r50"),
        (["--seed", "1"], "the preset comes first"),
        (["r50", "--bogus", "1"], "--bogus"),
        (["r50", "--data.num-frames", "0"], "data.num_frames must be at least 1, got 0"),
        (["r50", "--seed", "many"], "many"),
        (["r50", "--processes", "2"], "--processes"),
    ],
)
def test_mistakes_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_lists_presets_and_documents_fields(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in presets())
    with pytest.raises(SystemExit):
        parse(["r50", "--help"])
    text = capsys.readouterr().out
    assert "--optim.lr-backbone" in text and "Learning rate of the backbone" in text


def run_script(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_help_of_the_script_does_not_import_torch():
    code = "import sys; from seqformer.cli.train import parse; parse(['r50']); "
    code += "assert not {'torch', 'matplotlib', 'scipy'} & set(sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5


def test_script_refuses_a_used_folder_in_one_sentence(tmp_path):
    (tmp_path / "log.jsonl").touch()
    result = run_script("r50", "--output", str(tmp_path))
    assert result.returncode == 1
    assert "already holds a run" in result.stderr and "Traceback" not in result.stderr


def test_compile_alone_means_the_whole_model():
    assert parse(["mini", "--compile"]).compute.compile == ("model",)
    assert parse(["mini", "--compile", "--max-steps", "3"]).compute.compile == ("model",)
    assert parse(["mini", "--compile", "encoder", "decoder"]).compute.compile == (
        *("encoder", "decoder"),
    )
    with pytest.raises(SystemExit):
        parse(["mini", "--compile", "model", "encoder"])
