"""What lies in a run's folder is damaged, foreign or full: the run goes on, or says why not."""

import json
import os

import pytest
import torch

from seqformer.cli.train import main as run
from seqformer.config import override
from seqformer.trainer import trainer
from seqformer.trainer.best_checkpoint import BestCheckpoint
from seqformer.trainer.checkpoint import Checkpoints
from seqformer.trainer.checkpoint_folders import complete_checkpoints, newest_sound
from seqformer.trainer.errors import MemoryShortageError, SetupError
from seqformer.trainer.loss_plot import plot_losses
from seqformer.trainer.run_log import read_training_lines
from seqformer.trainer.step import TrainingStep
from seqformer.trainer.trainer import train
from tests.trainer.tiny import tiny_config


def damage(path, how):
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "removed":
        path.unlink()
    elif how == "changed":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.write_bytes({"cut off": content[:middle], "empty": b"", "null": b"null"}[how])


@pytest.fixture
def config(tiny_data, tmp_path):
    """A run of four steps with checkpoints of steps 2, 3 and 4; three steps are an epoch."""
    config = tiny_config(tmp_path / "run", checkpoint_every=2, keep_checkpoints=3)
    train(config)
    return config


def losses(config):
    return [(r["step"], r["loss"]) for r in read_training_lines(config.output / "log.jsonl")]


@pytest.mark.parametrize(
    "name,how",
    [
        ("__0_0.distcp", "cut off"),
        ("__0_0.distcp", "changed"),  # one bit is enough
        ("__0_0.distcp", "removed"),
        (".metadata", "changed"),
        (".metadata", "empty"),
        ("run.json", "null"),
        ("run.json", "removed"),
    ],
)
def test_the_checkpoint_before_a_damaged_one_is_used_and_it_is_said(config, name, how, caplog):
    folder, undisturbed = config.output / "checkpoints", losses(config)
    damage(folder / "step_00000004" / name, how)
    train(override(config, auto_resume=how == "cut off", resume=how != "cut off"))
    assert "step_00000004 is damaged" in caplog.text and "step_00000003, is used" in caplog.text
    assert losses(config) == undisturbed
    names = [path.name for path in complete_checkpoints(config.output)]
    assert names == ["step_00000002", "step_00000003", "step_00000004"]
    assert (folder / "step_00000004.damaged").is_dir()


def test_where_all_are_damaged_the_newest_is_named_and_none_is_renamed(config):
    folder = config.output / "checkpoints"
    before = sorted(path.name for path in folder.iterdir())
    for name in before:
        damage(folder / name / "run.json", "null")
    with pytest.raises(SetupError, match=r"step_00000004 is damaged.*no checkpoint before it"):
        train(override(config, resume=True))
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_checkpoint_that_tells_no_sums_is_left_alone_if_it_cannot_be_read(config, caplog):
    """Of an older version of the project."""
    newest = config.output / "checkpoints/step_00000004"
    run = json.loads((newest / "run.json").read_text())
    del run["files"]
    (newest / "run.json").write_text(json.dumps(run))
    damage(newest / "__0_0.distcp", "cut off")
    train(override(config, resume=True))
    assert "step_00000004 is not used" in caplog.text and len(losses(config)) == 4


def test_folders_of_other_names_are_not_the_runs(config):
    for name in ("step_backup", "step_00000004 copy", "step_9.old", "notes"):
        (config.output / "checkpoints" / name).mkdir()
    (config.output / "checkpoints/step_12").mkdir()  # lacks everything
    assert newest_sound(config.output).name == "step_00000004"
    train(override(config, resume=True, max_steps=5))
    assert losses(config)[-1][0] == 5


def test_a_damaged_log_loses_no_more_than_its_damaged_lines(config, caplog):
    log = config.output / "log.jsonl"
    lines = log.read_bytes().splitlines()
    lines[1:1] = [b"null", b'{"loss": 1}', b"\xff\xfe", b'{"step": "x", "loss": 3}', b"[" * 100_000]
    log.write_bytes(b"\n".join(lines))
    train(override(config, resume=True, max_steps=5))
    assert "5 damaged lines" in caplog.text
    assert [step for step, _ in losses(config)] == [1, 2, 3, 4, 5]
    log.write_bytes(b'{"step": 1, "loss": 2.0, "loss_ce": "x"}\n')
    plot_losses(log, config.output / "loss.png")
    plot_losses(config.output / "none.jsonl", config.output / "loss.png")


@pytest.mark.parametrize("text", ["null", "[]", "{", '{"step": "x", "ap": 1.0}', '{"step": 3}'])
def test_the_best_score_is_found_in_the_log_where_its_file_is_damaged(tmp_path, text, caplog):
    BestCheckpoint(7, 0.5).write(tmp_path)
    assert BestCheckpoint.read(tmp_path) == BestCheckpoint(7, 0.5)
    (tmp_path / "best.json").write_text(text)
    lines = [{"step": 3, "validation": {"AP": 0.4}}, {"step": 5, "validation": {"AP": 0.3}}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert BestCheckpoint.read(tmp_path) == BestCheckpoint(3, 0.4)
    assert "best.json is damaged" in caplog.text


def test_changed_labels_are_named(config):
    run = config.output / "checkpoints/step_00000004/run.json"
    content = json.loads(run.read_text())
    content["classes"]["names"][1] = "wolf"
    run.write_text(json.dumps(content))
    with pytest.raises(SetupError, match=r"other classes.*7 was 'wolf' and is now 'dog'"):
        train(override(config, resume=True))


def test_memory_that_runs_out_is_one_sentence(tiny_data, tmp_path, monkeypatch):
    sound, calls = TrainingStep.__call__, []

    def too_large(self, batches, num_instances):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return sound(self, batches, num_instances)

    monkeypatch.setattr(TrainingStep, "__call__", too_large)
    config = tiny_config(tmp_path / "run", checkpoint_every=2)
    with pytest.raises(MemoryShortageError, match=r"step 3 does not fit .*--frame-chunk.*step 2"):
        train(config)


def test_fp16_steps_that_are_all_skipped_are_said_and_the_run_ends(
    tiny_data, tmp_path, monkeypatch, caplog
):
    config = tiny_config(tmp_path / "run", precision="fp16", max_steps=3)
    monkeypatch.setattr(trainer, "plot_losses", plot_losses)
    monkeypatch.setattr(
        "seqformer.trainer.step.clip_gradients", lambda parameters, norm: torch.tensor(torch.inf)
    )
    train(config)
    assert "the last 3 step(s) updated nothing" in caplog.text
    assert "all 3 step(s) were skipped" in caplog.text
    assert (config.output / "model.safetensors").exists()


def test_a_full_disk_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    from seqformer.distributed.context import DistributedContext

    store = Checkpoints(tmp_path, DistributedContext(), keep=2)

    def full(*arguments, **options):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(torch.distributed.checkpoint.filesystem, "_write_item", full)
    store.save(2, {"x": torch.ones(2)}, {})
    with pytest.raises(OSError, match=r"step 2 .*cannot write .*No space left.*free some space"):
        store.wait()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_an_unexpected_error_is_a_sentence_with_its_traceback_in_the_folder(
    tiny_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(trainer, "seed_all", lambda *a: {}["key"])
    words = f"mini --output {tmp_path / 'run'} --device cpu --data.num-workers 0".split()
    assert run(words) == 70
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train")]
    assert "unexpected KeyError: 'key'; the traceback is in " in line
    (kept,) = (tmp_path / "run").glob("train-traceback-*.txt")
    assert str(kept) in line and "seed_all" in kept.read_text()
