"""The launch examples say what train.py understands, and share the batch among their processes."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from seqformer.cli.train import parse

FOLDER = Path(__file__).parents[2] / "seqformer" / "launch"
SCRIPTS = sorted(path for path in FOLDER.iterdir() if path.suffix in (".sh", ".sbatch"))


def command(script: Path) -> list[str]:
    """The words of the command that runs train.py."""
    text = script.read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if "train.py" in line and line[0] != "#"]
    return shlex.split(line.removesuffix("&"))


def option(words: list[str], name: str) -> int:
    return int(words[words.index(name) + 1]) if name in words else 1


def test_there_is_an_example_for_every_kind_of_machine():
    names = {path.name for path in SCRIPTS}
    assert names == {
        "cpu.sh",
        "one_gpu_24gb.sh",
        "one_node_8_gpus.sh",
        "slurm.sbatch",
        "two_nodes_8_gpus.sh",
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_arguments_are_understood_and_the_batch_can_be_shared(script):
    words = command(script)
    config = parse(words[words.index("train.py") + 1 :])
    assert config.checkpoint.auto_resume  # started again, it goes on
    text = script.read_text()
    if script.suffix == ".sbatch":
        sizes = dict(re.findall(r"^#SBATCH --(nodes|ntasks-per-node)=(\d+)$", text, re.MULTILINE))
        processes = int(sizes["nodes"]) * int(sizes["ntasks-per-node"])
    else:
        processes = option(words, "--nnodes") * option(words, "--nproc-per-node")
    assert config.data.global_batch_size % processes == 0
    if not script.name.startswith("cpu"):
        assert config.data.global_batch_size == 16  # the published recipe


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_understands_the_script(script):
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)
