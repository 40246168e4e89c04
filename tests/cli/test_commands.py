"""Every command: found by its words, explained at once without torch; mistakes are a sentence."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kernels
from seqformer.cli.kernels import example_calls
from seqformer.cli.main import COMMANDS, main, module_name

ROOT = Path(__file__).parents[2]
HELP = {
    **{name: ["-m", "seqformer", *name.split(), "--help"] for name in COMMANDS},
    "all": ["-m", "seqformer", "--help"],
    "data": ["-m", "seqformer", "data", "--help"],
    "a preset": ["-m", "seqformer", "train", "demo", "--help"],
    "davis": ["-m", "seqformer", "data", "convert", "davis", "--help"],
    "train.py": ["train.py", "r50", "--help"],
    "eval.py": ["eval.py", "--help"],
}
COMMAND = r"^def (act\(options|main\(arguments: Sequence\[str\], program)"
"""What the module of a command has."""
MAX_SECONDS = 0.3


def run_python(arguments: list[str]) -> tuple[float, str]:
    """CPU seconds of a process that must end well, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return seconds, done.stdout


@pytest.mark.parametrize("name", HELP)
def test_help_answers_at_once(name):
    """0.3 s of CPU time where an empty Python takes 0.01 s; slower machines get more. The best of
    a few tries counts: others on the same core make a process slower, never faster."""
    tried = []
    for _ in range(8):
        empty, _ = run_python(["-c", "pass"])
        seconds, text = run_python(HELP[name])
        assert "usage: " in text
        tried.append((seconds, empty))
        if seconds < MAX_SECONDS * max(1.0, empty / 0.01):
            return
    raise AssertionError(f"{name}: (CPU seconds, those of an empty Python) were {tried}")


def test_help_loads_no_torch():
    """One process asks every command; what one of them loads would be seen in all."""
    code = f"""
import contextlib, io, runpy, sys
for words in {list(HELP.values())!r}:
    script = [w for w in words[:1] if w.endswith(".py")]
    sys.argv = words if script else ["seqformer", *words[2:]]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            if script:
                runpy.run_path(script[0], run_name="__main__")
            else:
                from seqformer.cli.main import main
                main(words[2:])
        except SystemExit as stop:
            assert not stop.code, (words, stop.code)
    assert "usage: " in text.getvalue(), words
    heavy = {{"torch", "triton", "numpy", "matplotlib", "cv2", "pycocotools"}} & set(sys.modules)
    assert not heavy, (words, heavy)
"""
    run_python(["-c", code])


def test_every_module_is_a_listed_command():
    folder = ROOT / "seqformer" / "cli"
    modules = {
        path.relative_to(folder)
        .with_suffix("")
        .as_posix()
        .replace("/", ".")
        .removesuffix(".__init__")
        for path in folder.rglob("*.py")
        if re.search(
            r"^def (act|main)\((options|arguments: Sequence\[str\], program)",
            path.read_text(),
            re.M,
        )
    }
    assert modules == {module_name(name) for name in COMMANDS}


def test_kernels_answers_for_the_backend_that_is_asked_for(capsys):
    assert main(["kernels", "--backend", "reference"]) == 0
    out = capsys.readouterr().out
    assert "backend asked for: reference" in out and "PyTorch, the definition" in out
    assert kernels.current_backend() == "auto"


def test_overviews_and_mistakes(capsys):
    assert main(["--help"]) == 0 and main([]) == 2 and main(["data"]) == 2
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert main(["data", "--help"]) == 0
    out = capsys.readouterr().out
    assert "data check" in out and "kernels" not in out
    for words, hint in ((["data", "chek"], "seqformer data check?"), (["x"], "--help lists them")):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("seqformer: error: ") and hint in error and error.count("\n") == 1
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("seqformer 0.")


def test_a_command_names_itself(capsys, tmp_path):
    missing = str(tmp_path / "a.json")
    assert main(["data", "check", "--annotations", missing]) == 2
    error = capsys.readouterr().err
    assert error.startswith("seqformer data check: error: ") and "a.json" in error
    assert main(["eval", "--results", missing, "--annotations", missing]) == 2
    assert capsys.readouterr().err.startswith("seqformer eval: error: ")
    with pytest.raises(SystemExit) as stop:
        main(["train", "r51"])
    assert stop.value.code == 2 and "seqformer train: there is no" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kernels_says_what_runs_and_why_nothing_else(precision, capsys):
    assert main(["kernels", "--precision", precision]) == 0
    out = capsys.readouterr().out
    assert "backend asked for: auto" in out and f"), {precision}" in out
    assert set(example_calls(torch.float32, torch.device("cpu"))) == {
        function.__name__ for function in kernels.backend._operators
    }
    blocks = out.split("\n  ")
    for function in kernels.backend._operators:
        assert any(block.startswith(f"{function.__name__} ") for block in blocks)
    assert out.count("not triton: ") == out.count("not reference: ")
    assert out.count("not triton: ") == len(kernels.backend._operators)
    with kernels.use_backend("reference"):
        assert main(["kernels"]) == 0
    assert "PyTorch, the definition" in capsys.readouterr().out
