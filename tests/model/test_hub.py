"""Weights as a folder and as a repository of the hub, without a network."""

from __future__ import annotations

import json
import shutil
import sys
from types import ModuleType

import pytest
import torch

from seqformer import Predictor, SeqFormer, build_model
from seqformer.config import EvalConfig
from seqformer.structures import ClassMap

CLASSES = ClassMap((3, 7), ("cat", "dog"))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("resnet_mini", num_classes=2, hidden_dim=32, num_heads=4).eval()


def same(first, second):
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_folder_goes_round(model, tmp_path):
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"AP": 0.5726, "AP50": 0.81, "best": True, "per_class": {}}))
    evaluation = EvalConfig(top_k=7)
    model.save_pretrained(
        tmp_path / "new" / "folder", classes=CLASSES, evaluation=evaluation, metrics=metrics
    )
    folder = tmp_path / "new" / "folder"
    again = SeqFormer.from_pretrained(folder)
    assert same(model, again) and again.classes == CLASSES and not again.training
    config = json.loads((folder / "config.json").read_text())
    assert config["classes"] == CLASSES.to_dict() and config["model"]["num_classes"] == 2
    card = (folder / "README.md").read_text()
    assert "| AP | 0.5726 |" in card and "cat, dog" in card and "best" not in card
    assert card.startswith("---\nlibrary_name: seqformer\n")
    predictor = Predictor.from_checkpoint(folder / "model.safetensors")
    assert predictor.config == evaluation and predictor.classes == CLASSES
    again.save_pretrained(folder)  # its classes are known now
    assert same(SeqFormer.from_pretrained(str(folder)), model)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for huggingface_hub, whose repositories are folders."""

    class ModelHubMixin:
        def push_to_hub(self, repo_id, *, commit_message="", private=None):
            target = tmp_path / "hub" / repo_id
            target.mkdir(parents=True)
            self._save_pretrained(target)
            return f"https://hub/{repo_id}"

        @classmethod
        def from_pretrained(cls, name, *, revision=None, **options):
            return cls._from_pretrained(model_id=name, revision=revision, proxies=None, **options)

    def download(repo_id, filename, revision=None):
        cache = tmp_path / "cache" / str(revision)
        cache.mkdir(parents=True)
        return str(shutil.copy(tmp_path / "hub" / repo_id / filename, cache))

    module = ModuleType("huggingface_hub")
    module.ModelHubMixin, module.hf_hub_download = ModelHubMixin, download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return tmp_path / "hub"


def test_a_repository_goes_round(model, hub):
    address = model.push_to_hub("me/mini", classes=CLASSES, commit_message="first")
    assert address == "https://hub/me/mini"
    names = {"README.md", "config.json", "model.safetensors"}
    assert {path.name for path in (hub / "me" / "mini").iterdir()} == names
    again = SeqFormer.from_pretrained("me/mini", revision="v1")
    assert same(model, again) and again.classes == CLASSES


def test_mistakes_are_a_sentence(model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="does not know its classes"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the class map has 1 classes and the model 2"):
        model.save_pretrained(tmp_path, classes=ClassMap((1,), ("a",)))
    (tmp_path / "metrics.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"is no metrics\.json: it holds a list"):
        model.save_pretrained(tmp_path, classes=CLASSES, metrics=tmp_path / "metrics.json")
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        SeqFormer.from_pretrained(tmp_path)
    for name in (tmp_path / "none", "./none", "none"):
        with pytest.raises(FileNotFoundError, match="is no folder, and no repository of the hub"):
            SeqFormer.from_pretrained(name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'seqformer\[hub\]'"):
        SeqFormer.from_pretrained("me/mini")


@pytest.mark.integrations
def test_the_mixin_itself(model, monkeypatch, tmp_path):
    """huggingface_hub as installed; only what would reach the network is replaced."""
    library = pytest.importorskip("huggingface_hub")
    uploaded = tmp_path / "uploaded"

    class Created:
        repo_id = "me/mini"

    def upload(self, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, uploaded)
        return "https://hub/me/mini/commit/1"

    monkeypatch.setattr(library.HfApi, "create_repo", lambda *args, **options: Created)
    monkeypatch.setattr(library.HfApi, "upload_folder", upload)
    address = model.push_to_hub("me/mini", classes=CLASSES, metrics={"AP": 0.5})
    assert address.endswith("/commit/1")
    assert "| AP | 0.5 |" in (uploaded / "README.md").read_text()
    assert json.loads((uploaded / "config.json").read_text())["architecture"] == "SeqFormer"

    def download(repo_id, filename, **options):
        assert repo_id == "me/mini"
        return str(uploaded / filename)

    monkeypatch.setattr(library, "hf_hub_download", download)
    mixin = sys.modules[library.ModelHubMixin.__module__]
    monkeypatch.setattr(mixin, "hf_hub_download", download)
    assert same(SeqFormer.from_pretrained("me/mini", local_files_only=True), model)
