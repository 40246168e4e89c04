"""Weights & Biases and MLflow, without a network; skipped where the packages are missing."""

from __future__ import annotations

import json
import sys

import pytest

from seqformer.config import override
from seqformer.trainer.errors import SetupError
from seqformer.trainer.logger_content import IDS_NAME, known_id
from seqformer.trainer.loggers import build_loggers
from seqformer.trainer.trainer import train
from tests.trainer.test_validate import config_for, drawn  # noqa: F401
from tests.trainer.tiny import tiny_config


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_said_before_training(tiny_data, tmp_path, monkeypatch, name):
    for module in [m for m in sys.modules if m.split(".")[0] == name] + [name]:
        monkeypatch.setitem(sys.modules, module, None)
    words = rf"--{name} needs the package {name}; .*pip install 'seqformer\[{name}\]'"
    with pytest.raises(SetupError, match=words):
        train(tiny_config(tmp_path / "run", **{name: True}))


def test_only_rank_0_has_any(tmp_path):
    config = tiny_config(tmp_path, tensorboard=True, wandb=True, mlflow=True)
    assert not build_loggers(config, is_main=False)
    assert not build_loggers(tiny_config(tmp_path), is_main=True)


def test_damaged_ids_are_none(tmp_path):
    for text in ("{", "[1]", '{"wandb": 3}', ""):
        (tmp_path / IDS_NAME).write_text(text)
        assert known_id(tmp_path, "wandb") is None


def test_mlflow_keeps_a_run_in_its_folder(drawn, tmp_path, offline):  # noqa: F811
    mlflow = pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    config = config_for(drawn, tmp_path / "run", max_steps=2, mlflow=True)
    train(config)
    client = mlflow.tracking.MlflowClient(f"sqlite:///{config.output / 'mlflow.db'}")
    run_id = json.loads((config.output / IDS_NAME).read_text())["mlflow"]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params["optim.lr"] == "0.001" and run.data.params["data.num_frames"] == "2"
    history = client.get_metric_history(run_id, "loss/loss")
    assert [m.step for m in history] == [1, 2]
    assert client.get_metric_history(run_id, "validation/AP")[0].step == 2
    pictures = client.list_artifacts(run_id, "validation")
    assert len(pictures) == 2 and pictures[0].path.endswith(".png")
    train(override(config, resume=True, max_steps=3))
    assert json.loads((config.output / IDS_NAME).read_text())["mlflow"] == run_id
    assert [m.step for m in client.get_metric_history(run_id, "loss/loss")] == [1, 2, 3]


def test_mlflow_that_cannot_be_written_is_said(tiny_data, tmp_path, offline, monkeypatch):
    pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(SetupError, match="MLflow does not take the run at nonsense://nowhere"):
        train(tiny_config(tmp_path / "run", mlflow=True))


def test_a_step_that_mlflow_does_not_take_ends_nothing(
    tiny_data, tmp_path, offline, monkeypatch, caplog
):
    mlflow = pytest.importorskip("mlflow", reason="the package mlflow is not installed")

    def refuse(*arguments, **named):
        if "metrics" in named:
            raise mlflow.exceptions.MlflowException("gone\nand more")

    monkeypatch.setattr(mlflow.tracking.MlflowClient, "log_batch", refuse)
    train(tiny_config(tmp_path / "run", max_steps=1, mlflow=True))
    assert "MLflow did not take the numbers of step 1: gone" in caplog.text


def test_wandb_keeps_a_run_in_its_folder(drawn, tmp_path, offline):  # noqa: F811
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    config = config_for(drawn, tmp_path / "run", max_steps=2, wandb=True)
    train(config)
    run_id = json.loads((config.output / IDS_NAME).read_text())["wandb"]
    (folder,) = (config.output / "wandb").glob("offline-run-*")
    assert folder.name.endswith(run_id)
    record = (folder / f"run-{run_id}.wandb").read_bytes()
    for name in (b"loss/loss", b"run/lr", b"validation/AP", b"optim.lr"):
        assert name in record, name
    assert len(list(folder.rglob("*.png"))) == 2
    train(override(config, resume=True, max_steps=3))
    assert json.loads((config.output / IDS_NAME).read_text())["wandb"] == run_id
    assert len(list((config.output / "wandb").glob(f"offline-run-*{run_id}"))) >= 1


def test_wandb_without_a_login_is_said(tiny_data, tmp_path, offline, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the package wandb is not installed")

    def refuse(**named):
        raise wandb.errors.UsageError("no API key configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(SetupError, match=r"no API key.*WANDB_MODE=offline"):
        train(tiny_config(tmp_path / "run", wandb=True))
