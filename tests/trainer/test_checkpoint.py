"""Checkpoints: exact continuation, atomic writing, rotation, refusals."""

import json
from dataclasses import replace

import pytest
import torch

from seqformer.config import OptimConfig, config_to_dict, override
from seqformer.distributed.context import DistributedContext
from seqformer.files import write_atomically
from seqformer.inference import Predictor
from seqformer.model import load_checkpoint, model_from_checkpoint, to_published
from seqformer.trainer import checkpoint
from seqformer.trainer.checkpoint import CheckpointError, Checkpoints
from seqformer.trainer.checkpoint_folders import complete_checkpoints
from seqformer.trainer.errors import SetupError
from seqformer.trainer.export import export_checkpoint
from seqformer.trainer.run_folder import prepare_output
from seqformer.trainer.run_log import read_training_lines
from seqformer.trainer.trainer import Trainer, train
from tests.trainer.tiny import CLASSES, tiny_config, tiny_model_config

ONE = DistributedContext()


def losses(folder):
    return {r["step"]: (r["loss"], r["lr"]) for r in read_training_lines(folder / "log.jsonl")}


def final_state(config):
    """Tensors of the newest checkpoint, read by a trainer of the same run."""
    actual = complete_checkpoints(config.output)[-1]
    trainer = Trainer(override(config, resume=True), ONE, actual)
    flat = dict(trainer._tensors()["model"])
    for name, state in trainer._tensors()["optimizer"].items():
        flat |= {f"{name}.{key}": value for key, value in state.items()}
    return flat


def assert_same_state(a, b):
    a, b = final_state(a), final_state(b)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("stop", [2, 3], ids=["inside an epoch", "between epochs"])
def test_resumed_run_equals_the_uninterrupted_one(tiny_data, tmp_path, stop):
    """Epochs have three steps; the learning rate drops after the first; dropout is on."""
    model = replace(tiny_model_config(), dropout=0.1)
    whole = tiny_config(
        tmp_path / "whole",
        max_steps=5,
        log_every=2,
        model=model,
        optim=OptimConfig(lr=1e-3, lr_drop_epochs=(1,)),
    )
    train(whole)
    part = replace(whole, output=tmp_path / "part")
    train(replace(part, max_steps=stop))
    train(override(part, resume=True))
    assert_same_state(whole, part)
    expected, got = losses(tmp_path / "whole"), losses(tmp_path / "part")
    assert {step: got[step] for step in expected} == expected


def test_resuming_forgets_lines_logged_after_the_checkpoint(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=2)
    train(config)
    log = tmp_path / "run/log.jsonl"
    log.write_text(log.read_text() + '{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    train(override(config, max_steps=3, resume=True))
    records = read_training_lines(log)
    assert [r["step"] for r in records] == [1, 2, 3]
    assert records[-1]["loss"] != 1.0


def test_resuming_a_finished_run_changes_nothing(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=1, log_every=2)
    train(config)
    files = [*(tmp_path / "run/checkpoints").rglob("*"), tmp_path / "run/log.jsonl"]
    before = {f: f.read_bytes() for f in files if f.is_file()}
    train(override(config, resume=True))
    assert {f: f.read_bytes() for f in before} == before


def test_checkpoint_and_export_hold_names_classes_and_the_frame_size(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=1)
    config = replace(config, eval=replace(config.eval, short_side=48, top_k=3))
    train(config)
    folder = tmp_path / "run/checkpoints/step_00000001"
    run = json.loads((folder / "run.json").read_text())
    assert {"step", "epoch", "args", "global_batch_size", "scaler"} <= run.keys()
    assert run["args"] == json.loads(json.dumps(config_to_dict(config)))
    export_checkpoint(folder, tmp_path / "weights.safetensors")
    states = []
    for path in (folder, tmp_path / "run/model.safetensors", tmp_path / "weights.safetensors"):
        model, loaded = model_from_checkpoint(path)
        assert loaded.classes == CLASSES
        assert Predictor.from_checkpoint(path, device="cpu").config == config.eval
        assert model.config.num_queries == config.model.num_queries
        states.append(to_published(model))
        assert load_checkpoint(path).state.keys() == states[0].keys()
    assert "detr.transformer.decoder.bbox_embed.0.layers.0.weight" in states[0]
    for other in states[1:]:
        assert all(torch.equal(other[name], value) for name, value in states[0].items())


def test_frozen_projections_are_in_the_checkpoint(tiny_data, tmp_path):
    train(tiny_config(tmp_path / "run", max_steps=1))
    state = load_checkpoint(tmp_path / "run/checkpoints/step_00000001").state
    assert "detr.transformer.encoder.layers.0.self_attn.output_proj_box.weight" in state


def test_number_of_classes_comes_from_the_data(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=1)
    train(replace(config, model=replace(config.model, num_classes=42)))
    assert load_checkpoint(tmp_path / "run/model.safetensors").num_classes == 2


def test_the_newest_and_the_protected_checkpoints_stay(tiny_data, tmp_path):
    store = Checkpoints(tmp_path, ONE, keep=2)
    store.protected = 2
    for step in range(1, 6):
        store.save(step, {"x": torch.full((2,), float(step))}, {"step": step})
    store.wait()
    kept = [path.name for path in complete_checkpoints(tmp_path)]
    assert kept == ["step_00000002", "step_00000004", "step_00000005"]
    assert sorted(p.name for p in store.folder.iterdir()) == kept


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    """Writing goes on while training changes the tensors."""
    store = Checkpoints(tmp_path, ONE, keep=2)
    tensor = torch.ones(1000, 1000)
    store.save(1, {"x": tensor}, {})
    tensor.fill_(2.0)
    store.wait()
    actual = {"x": torch.zeros(1000, 1000)}
    store.load(store.path(1), actual)
    assert actual["x"].unique().tolist() == [1.0]


def test_full_disk_is_said_and_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path, ONE, keep=2)
    store.save(1, {"x": torch.ones(2)}, {})
    store.wait()

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_text", full)
    store.save(2, {"x": torch.ones(2)}, {})
    with pytest.raises(CheckpointError, match=r"step 2 could not be written.*No space left"):
        store.wait()
    assert store.last_step == 1
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step_00000001"]
    assert Checkpoints(tmp_path, ONE, keep=2).last_step == 1  # and the rest is swept away
    assert [path.name for path in store.folder.iterdir()] == ["step_00000001"]


def test_run_that_cannot_write_ends_with_a_sentence(tiny_data, tmp_path, monkeypatch):
    """The tensors themselves do not fit."""
    config = tiny_config(tmp_path / "run", max_steps=9, checkpoint_every=2)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.distributed.checkpoint.filesystem, "_write_item", full)
    with pytest.raises(CheckpointError, match=r"step 2 .*No space left.*No checkpoint"):
        train(config)


def test_crash_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def half(file):
        file.write(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_folder_of_another_run_is_refused(tmp_path):
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ValueError, match=r"already holds a run.*--resume.*--output"):
        prepare_output(tiny_config(tmp_path))
    (tmp_path / "log.jsonl").unlink()
    assert prepare_output(tiny_config(tmp_path)) is None


def test_resume_without_a_checkpoint_is_refused_unless_automatic(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="checkpoints holds no checkpoint"):
        prepare_output(tiny_config(tmp_path, resume=True))
    (tmp_path / "log.jsonl").touch()
    assert prepare_output(tiny_config(tmp_path, auto_resume=True)) is None
    with pytest.raises(ValueError, match="already holds a run"):
        prepare_output(tiny_config(tmp_path))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert prepare_output(tiny_config(tmp_path)) is None


def test_unwritable_output_is_refused_in_words(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write into .*choose another --output"):
        prepare_output(tiny_config(tmp_path / "file" / "run"))


def test_resume_refuses_what_is_not_the_same_run(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=1)
    train(config)
    again = override(config, max_steps=2, resume=True)

    with pytest.raises(SetupError, match=r"model\.num_queries was 5 and is now 6"):
        train(replace(again, model=replace(config.model, num_queries=6)))
    with pytest.raises(SetupError, match=r"optim\.lr was 0\.001 and is now 0\.5"):
        train(replace(again, optim=replace(config.optim, lr=0.5)))
    with pytest.raises(SetupError, match=r"data\.global_batch_size was 2 and is now 4"):
        train(replace(again, data=replace(config.data, global_batch_size=4)))

    folder = tmp_path / "run/checkpoints/step_00000001"
    run = json.loads((folder / "run.json").read_text())

    def rewrite(**changes):
        (folder / "run.json").write_text(json.dumps(run | changes))

    rewrite(classes={"ids": [1, 2], "names": ["cow", "hen"]})
    with pytest.raises(SetupError, match="trained on other classes"):
        train(again)
    rewrite(steps_per_epoch=7)
    with pytest.raises(SetupError, match="a run of 7 steps per epoch; this data makes 3"):
        train(again)
    (folder / "run.json").write_text("{")
    with pytest.raises(SetupError, match=r"run\.json cannot be read.*no checkpoint before it"):
        train(again)
    rewrite()
    tensors = next(folder.glob("*.distcp"))
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(SetupError, match=r"is damaged \(.*1000 bytes instead of"):
        train(again)


def test_broken_weights_are_refused_when_resuming(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=1)
    trainer = Trainer(config, ONE)
    tensors = trainer._tensors()
    tensors["model"]["detr.transformer.level_embed"].fill_(torch.nan)
    train(config)
    run = json.loads((tmp_path / "run/checkpoints/step_00000001/run.json").read_text())
    store = Checkpoints(tmp_path / "run", ONE, keep=2)
    store.save(2, tensors, run | {"step": 2})
    store.wait()
    with pytest.raises(SetupError, match=r"step_00000002 holds NaN or infinite weights"):
        train(override(config, max_steps=2, resume=True))
