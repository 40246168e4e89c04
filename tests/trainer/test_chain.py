"""Both stages as one run: what it does, what it refuses, and that killing it changes nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from seqformer.cli.chain import main as run
from seqformer.cli.chain import split_words
from seqformer.data.synthetic import make_synthetic_dataset
from seqformer.data.synthetic_stills import make_synthetic_stills
from seqformer.model import load_checkpoint
from seqformer.trainer.chain_data import find_data
from seqformer.trainer.chain_state import ChainState
from seqformer.trainer.checkpoint_folders import complete_checkpoints, step_of
from seqformer.trainer.run_log import read_training_lines

ROOT = Path(__file__).parents[2]
STEPS = {"1_stills": 8, "2_videos": 7}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("drawn")
    make_synthetic_stills(root / "coco", num_train=6, num_val=2, height=32, width=64, seed=0)
    make_synthetic_dataset(
        root / "ytvis", num_train=3, num_val=2, num_frames=4, height=32, width=64, seed=0
    )
    return root / "coco", root / "ytvis"


def words_of(folders, output: Path, more: str = "") -> list[str]:
    """A chain of a tiny model with dropout, one checkpoint per step."""
    text = f"""--coco {folders[0]} --ytvis {folders[1]} --output {output} --categories by_name
        --both.device cpu --both.from-scratch --both.backbone-weights None
        --both.checkpoint-every 1 --both.log-every 1 --both.eval-every-epochs 0
        --both.model.backbone resnet_mini --both.model.hidden-dim 32 --both.model.num-heads 4
        --both.model.num-encoder-layers 1 --both.model.num-decoder-layers 2
        --both.model.ffn-dim 32 --both.model.num-queries 5 --both.model.mask-dim 16
        --both.model.dropout 0.1 --both.data.class-layout from_data --both.ema-decay 0.9
        --both.data.batch-size 2 --both.data.global-batch-size 2 --both.data.num-workers 0
        --both.data.augment.short-sides 32 48 --both.data.augment.max-long-side 96
        --both.data.augment.crop-prob 0 --both.eval.short-side 32 --videos.no-from-scratch
        --stills.max-steps {STEPS["1_stills"]} --videos.max-steps {STEPS["2_videos"]}
        --videos.data.num-frames 2 {more}"""
    return text.split()


def in_process(words: list[str], output: Path) -> None:
    """`seqformer chain` in a process that a server forks, which imported torch once for all."""
    torch.set_num_threads(1)
    with output.with_suffix(".out").open("a") as file, redirect_stdout(file), redirect_stderr(file):
        raise SystemExit(run(words))


def begin(folders, output: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seqformer.trainer.chain", "seqformer.trainer.chain_plan"])
    process = context.Process(target=in_process, args=(words_of(folders, output), output))
    process.start()
    return process


def finish(process: BaseProcess, output: Path) -> None:
    process.join()
    assert process.exitcode == 0, output.with_suffix(".out").read_text()[-3000:]


def progress(output: Path) -> int:
    """Steps of both stages that checkpoints hold."""
    newest = [complete_checkpoints(output / stage)[-1:] for stage in STEPS]
    return sum(step_of(path) for paths in newest for path in paths)


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory) -> Path:
    """An undisturbed chain."""
    output = tmp_path_factory.mktemp("chains") / "whole"
    finish(begin(folders, output), output)
    return output


def test_a_chain_leaves_stages_and_results(whole):
    assert {path.name for path in whole.iterdir()} == {
        *("1_stills", "2_videos", "chain.json", "pseudo_videos.json"),
        *("results.json", "metrics.json", "model.safetensors"),
    }
    state = json.loads((whole / "chain.json").read_text())
    assert state["finished"] == ["stills", "pseudo_videos", "videos"]
    for stage, steps in STEPS.items():
        assert [r["step"] for r in read_training_lines(whole / stage / "log.jsonl")] == [
            *range(1, steps + 1)
        ]
        assert (whole / stage / "config.json").is_file()
    config = json.loads((whole / "2_videos" / "config.json").read_text())
    assert config["start"]["weights"] == str(whole / "1_stills" / "model.safetensors")
    assert (whole / "results.json").read_bytes() == (whole / "2_videos/results.json").read_bytes()


def test_the_second_stage_begins_with_what_the_first_has_learnt(whole):
    """Five steps hardly move a weight, other random ones are 0.1 apart; class heads are its own."""
    first = load_checkpoint(whole / "1_stills" / "model.safetensors").state
    begun = load_checkpoint(whole / "2_videos" / "checkpoints" / "step_00000005").state
    key = "detr.transformer.encoder.layers.0.linear1.weight"
    assert (begun[key] - first[key]).abs().max() < 0.01
    assert not torch.equal(begun["detr.class_embed.0.weight"], first["detr.class_embed.0.weight"])


def killed(folders, output: Path, kills: int) -> None:
    """Run a chain, killing it again and again, in every stage and while it starts."""
    moments = random.Random(0)
    for kill in range(kills):
        process = begin(folders, output)
        if kill % 4 == 3:
            time.sleep(moments.uniform(0, 1))
        else:
            before, end = progress(output), time.monotonic() + 300
            while progress(output) == before and process.is_alive():
                assert time.monotonic() < end, "nothing happens"
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.join()
    finish(begin(folders, output), output)


def assert_equal(part: Path, whole: Path) -> None:
    for name in ("results.json", "pseudo_videos.json"):
        assert (part / name).read_bytes() == (whole / name).read_bytes(), name
    for place in ("model.safetensors", *(f"{stage}/model.safetensors" for stage in STEPS)):
        ours, theirs = (load_checkpoint(folder / place).state for folder in (part, whole))
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items()), place
    for stage in STEPS:
        lines = [read_training_lines(f / stage / "log.jsonl") for f in (part, whole)]
        assert [r["loss"] for r in lines[0]] == [r["loss"] for r in lines[1]]
        metrics = [json.loads((f / stage / "metrics.json").read_text()) for f in (part, whole)]
        assert metrics[0]["AP"] == metrics[1]["AP"] and metrics[0]["step"] == metrics[1]["step"]


def test_killed_twice_equals_undisturbed_bit_for_bit(folders, whole, tmp_path):
    part = tmp_path / "part"
    killed(folders, part, 2)
    assert part.with_suffix(".out").read_text().count("continuing at step") >= 1
    assert_equal(part, whole)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_twenty_times_equals_undisturbed_bit_for_bit(folders, whole, tmp_path):
    part = tmp_path / "part"
    killed(folders, part, 20)
    said = part.with_suffix(".out").read_text()
    assert said.count("continuing at step") >= 5, "the kills came too late to interrupt anything"
    assert_equal(part, whole)


def test_a_finished_chain_changes_nothing(folders, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*_*/*.safetensors")}
    finish(begin(folders, whole), whole)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    "more,message",
    [
        ("--videos.optim.lr 0.5", "videos: optim.lr was 0.0002 and is now 0.5"),
        ("--stills.max-steps 99", "stills: max_steps was 8 and is now 99"),
        ("--categories 2019", "pseudo_videos: {'categories': 'by_name'} is now"),
    ],
)
def test_another_chain_is_refused(folders, whole, more, message, capsys):
    assert run(words_of(folders, whole, more)) == 1
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_two_chains_do_not_share_a_folder(folders, whole, capsys):
    holding = "import sys; from seqformer.files import locked; from pathlib import Path\n"
    holding += f"with locked(Path({str(whole / '.lock')!r}), 'x'): print(flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", holding],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    other.stdout.readline()
    assert run(words_of(folders, whole)) == 1
    other.communicate(b"\n")
    assert f"the output folder {whole} is in use" in capsys.readouterr().err.replace("\n", " ")


def test_a_damaged_state_is_refused(folders, whole, tmp_path, capsys):
    for text in ("{", '{"format": 2, "finished": [], "settings": {}}', '{"format": 1}', "[]"):
        (tmp_path / "chain.json").write_text(text)
        with pytest.raises(ValueError, match=r"chain\.json is damaged or of another version"):
            ChainState.read(tmp_path)
    assert ChainState.read(tmp_path / "nowhere") is None


def test_a_dry_run_says_what_would_happen_and_writes_nothing(folders, tmp_path, capsys):
    assert run([*words_of(folders, tmp_path / "new", "--stills.max-steps 0"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "1. stills (to do)" in said and "3. videos (to do)" in said
    assert "steps: 150 (50 epochs of 3), of 2 clips each" in said  # six pictures
    assert "steps: 7, of 2 clips each" in said and "MB a process" in said
    assert "missing: nothing" in said
    assert not (tmp_path / "new").exists()


def test_a_dry_run_of_a_begun_chain_says_how_far_it_is(folders, whole, capsys):
    assert run([*words_of(folders, whole), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("(finished)") == 3


def test_what_is_missing_is_said_before_anything_starts(folders, tmp_path, capsys):
    nowhere = (tmp_path / "no_coco", folders[1])
    assert run([*words_of(nowhere, tmp_path / "new"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"--coco: {tmp_path}/no_coco/train2017 does not exist" in said
    assert "of unknown length while the data is missing" not in said  # max_steps says it
    assert run(words_of(nowhere, tmp_path / "new")) == 1
    assert "no_coco/annotations/instances_train2017.json does not exist" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "words,message",
    [
        ([], "give the folders --coco and --ytvis, or --demo"),
        (["--demo", "--coco", "x"], "--demo draws its own data"),
        (["--demo", "--stills.bogus", "3"], "bogus"),
        (["--demo", "--bogus", "3"], "bogus"),
    ],
)
def test_mistakes_are_a_sentence(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_options_go_to_their_stage():
    words = (
        "--demo --stills.max-steps 3 --output x --both.recompute encoder decoder --videos.seed 4"
    )
    own, of_stages = split_words(words.split())
    assert own == ["--demo", "--output", "x"]
    assert of_stages["stills"] == ["--max-steps", "3", "--recompute", "encoder", "decoder"]
    assert of_stages["videos"] == ["--recompute", "encoder", "decoder", "--seed", "4"]
    assert split_words(["--stills-like", "x", "--other.y", "1"])[0] == [
        *("--stills-like", "x", "--other.y", "1")
    ]


def test_folders_as_people_have_them(tmp_path):
    for name in ("train/JPEGImages", "valid/JPEGImages"):
        (tmp_path / "2021" / name).mkdir(parents=True)
    for name in ("train/instances.json", "valid/instances.json"):
        (tmp_path / "2021" / name).write_text("{}")
    data = find_data(tmp_path / "coco", tmp_path / "2021")
    assert data.videos.train_annotations == tmp_path / "2021/train/instances.json"
    assert data.videos.val_images == tmp_path / "2021/valid/JPEGImages"
    assert len(data.missing) == 4 and all(line.startswith("--coco") for line in data.missing)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(1500)
def test_two_processes_under_torchrun_and_one_of_them_killed(folders, tmp_path):
    """Both stages meet at the launcher's store, one after the other."""
    output = tmp_path / "both"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", "2", "-m", "seqformer", "chain"]
    command += words_of(folders, output, "--both.data.batch-size 1")
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 600
    while progress(output) < 3 and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), 9)
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors.decode()[-3000:]
    state = json.loads((output / "chain.json").read_text())
    assert state["finished"] == ["stills", "pseudo_videos", "videos"]
    assert json.loads((output / "2_videos/metrics.json").read_text())["processes"] == 2
