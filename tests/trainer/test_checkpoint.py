"""Checkpoints: layout, atomic writing, exact continuation, refusals."""

from dataclasses import replace

import pytest
import torch

from seqformer.config import OptimConfig, config_to_dict
from seqformer.model import model_from_checkpoint
from seqformer.trainer import checkpoint
from seqformer.trainer.checkpoint import prepare_output, save_checkpoint
from seqformer.trainer.progress import read_training_lines
from seqformer.trainer.trainer import SetupError, train
from tests.trainer.tiny import CLASSES, tiny_config, tiny_model_config


def read(path):
    return torch.load(path, weights_only=True)


def losses(folder):
    return {r["step"]: (r["loss"], r["lr"]) for r in read_training_lines(folder / "log.jsonl")}


def assert_same_state(a, b):
    assert a["model"].keys() == b["model"].keys()
    for name in a["model"]:
        assert torch.equal(a["model"][name], b["model"][name]), name
    for index, state in a["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, b["optimizer"]["state"][index][key]), (index, key)
    assert a["lr_scheduler"] == b["lr_scheduler"]
    assert torch.equal(a["rng"][0]["torch"], b["rng"][0]["torch"])


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
    train(replace(part, resume=True))
    assert_same_state(
        read(tmp_path / "whole/checkpoint.pth"), read(tmp_path / "part/checkpoint.pth")
    )
    expected, got = losses(tmp_path / "whole"), losses(tmp_path / "part")
    assert {step: got[step] for step in expected} == expected


def test_resuming_forgets_lines_logged_after_the_checkpoint(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=2)
    train(config)
    log = tmp_path / "run/log.jsonl"
    log.write_text(log.read_text() + '{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    train(replace(config, max_steps=3, resume=True))
    records = read_training_lines(log)
    assert [r["step"] for r in records] == [1, 2, 3]
    assert records[-1]["loss"] != 1.0


def test_resuming_a_finished_run_changes_nothing(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=1, log_every=2)
    train(config)
    before = (tmp_path / "run/log.jsonl").read_text(), read(tmp_path / "run/checkpoint.pth")
    train(replace(config, resume=True))
    assert (tmp_path / "run/log.jsonl").read_text() == before[0]
    assert_same_state(read(tmp_path / "run/checkpoint.pth"), before[1])


def test_checkpoint_holds_the_published_layout_and_plain_types(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=1)
    train(config)
    saved = read(tmp_path / "run/checkpoint.pth")
    assert {"model", "optimizer", "lr_scheduler", "epoch", "step", "args"} <= saved.keys()
    assert "detr.transformer.decoder.bbox_embed.0.layers.0.weight" in saved["model"]
    assert saved["args"] == config_to_dict(config)
    model, loaded = model_from_checkpoint(tmp_path / "run/checkpoint.pth")
    assert loaded.classes == CLASSES
    assert model.config.num_queries == config.model.num_queries


def test_number_of_classes_comes_from_the_data(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=1)
    train(replace(config, model=replace(config.model, num_classes=42)))
    assert read(tmp_path / "run/checkpoint.pth")["model_config"]["num_classes"] == 2


def test_crash_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, {"step": 1})

    def half_written(state, file):
        file.write(b"half a checkpoint")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", half_written)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"step": 2})
    assert read(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_folder_of_another_run_is_refused(tmp_path):
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(ValueError, match=r"already holds a run.*--resume.*--output"):
        prepare_output(tiny_config(tmp_path))
    (tmp_path / "log.jsonl").unlink()
    prepare_output(tiny_config(tmp_path))


def test_resume_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.pth does not exist"):
        prepare_output(tiny_config(tmp_path, resume=True))


def test_unwritable_output_is_refused_in_words(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write to the output folder"):
        prepare_output(tiny_config(tmp_path / "file" / "run"))


def test_resume_refuses_what_is_not_the_same_run(tiny_data, tmp_path):
    config = tiny_config(tmp_path / "run", max_steps=1)
    train(config)
    again = replace(config, max_steps=2, resume=True)

    with pytest.raises(SetupError, match=r"model\.num_queries was 5 and is now 6"):
        train(replace(again, model=replace(config.model, num_queries=6)))
    with pytest.raises(SetupError, match=r"optim\.lr was 0\.001 and is now 0\.5"):
        train(replace(again, optim=replace(config.optim, lr=0.5)))

    path = tmp_path / "run/checkpoint.pth"
    saved = read(path)
    torch.save(saved | {"classes": {"ids": [1, 2], "names": ["cow", "hen"]}}, path)
    with pytest.raises(SetupError, match="trained on other classes"):
        train(again)
    torch.save(saved | {"rng": saved["rng"] * 2}, path)
    with pytest.raises(SetupError, match=r"written by 2 process\(es\)"):
        train(again)
    torch.save({"model": saved["model"]}, path)
    with pytest.raises(SetupError, match=r"cannot be resumed: it lacks .*--weights"):
        train(again)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SetupError, match="not a readable checkpoint"):
        train(again)
