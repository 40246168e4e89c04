"""Scripts that were written before the `seqformer` command go on to work."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = ("analyse", "check", "compare", "convert", "merge", "remap", "report", "split", "stats")


@pytest.mark.parametrize("name", NAMES)
def test_former_modules_are_the_commands(name, capsys):
    module = importlib.import_module(f"seqformer.tools.{name}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    group = "" if name in ("analyse", "compare", "report") else "data "
    assert f"usage: seqformer {group}{name} " in capsys.readouterr().out


def test_as_a_process(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "seqformer.tools.check", "--annotations", tmp_path / "no.json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and "no.json does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_settings_of_data():
    from seqformer.config.data import AugmentConfig, DataConfig
    from seqformer.config_data import AugmentConfig as FormerAugment
    from seqformer.config_data import DataConfig as FormerData

    assert (FormerAugment, FormerData) == (AugmentConfig, DataConfig)


@pytest.mark.parametrize(
    ("former", "now", "name"),
    [
        ("data.coco", "annotations.coco", "load_coco_file"),
        ("inference.sources", "data.video_sources", "find_videos"),
        ("inference.sources", "data.video_reader", "read_video"),
        ("inference.visualize", "visualization.result_videos", "result_drawer"),
    ],
)
def test_what_has_moved(former, now, name):
    modules = (importlib.import_module(f"seqformer.{place}") for place in (former, now))
    assert len({getattr(module, name) for module in modules}) == 1


def test_packed_annotations():
    from seqformer.annotations.packed import PackedBuilder
    from seqformer.annotations.ytvis import AnnotationSet

    packed = PackedBuilder().build({})
    assert AnnotationSet(path=Path("it"), packed=packed, categories=[]).arena is packed
