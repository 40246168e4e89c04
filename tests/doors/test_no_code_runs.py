"""Whatever a file holds, reading it calls nothing that the file names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from seqformer.annotations.coco import load_coco_file
from seqformer.annotations.packed import open_packed
from seqformer.annotations.ytvis import load_annotation_file
from seqformer.config import ModelConfig
from seqformer.data.frames import read_frame
from seqformer.data.video_reader import read_video
from seqformer.data.video_sources import find_videos, open_video
from seqformer.distributed.context import distributed_context
from seqformer.evaluation.records import read_ground_truth
from seqformer.evaluation.ytvis_metric import evaluate
from seqformer.inference import Predictor
from seqformer.inference.results_file import load_results
from seqformer.model import (
    build_model_from_config,
    load_backbone_weights,
    load_checkpoint,
    load_weights,
)
from seqformer.tools.annotation_json import read_content
from seqformer.tools.convert_masks import read_labels_file
from seqformer.tools.track_builder import read_labels
from seqformer.trainer.checkpoint import Checkpoints, model_tensors, optimizer_tensors
from seqformer.trainer.export import export_checkpoint
from tests.doors import payloads

SMALL = ModelConfig(
    backbone="resnet_mini", num_classes=3, hidden_dim=32, num_heads=4, num_encoder_layers=1,
    num_decoder_layers=1, num_queries=3, ffn_dim=16, mask_dim=8,
)  # fmt: skip
TRUTH = {"videos": [{"id": 1}], "categories": [], "annotations": []}


def small():
    torch.manual_seed(0)
    return build_model_from_config(SMALL)


READERS = {
    "load_checkpoint": load_checkpoint,
    "load_weights": lambda path: load_weights(small(), path),
    "load_backbone_weights": lambda path: load_backbone_weights(small(), path),
    "Predictor": Predictor.from_checkpoint,
    "open_packed": open_packed,
    "annotations, training": load_annotation_file,
    "annotations, stills": lambda path: load_coco_file(path, "as_is"),
    "annotations, scoring": read_ground_truth,
    "annotations, tools": read_content,
    "results, scoring": lambda path: evaluate(TRUTH, path),
    "results, drawing": load_results,
    "labels": read_labels_file,
    "frame": read_frame,
    "mask picture": read_labels,
    "video": lambda path: list(read_video(path)),
    "source": lambda path: list(open_video(path).frames()),
    "folder": lambda path: [list(source.frames()) for source in find_videos(path.parent)],
}
SUFFIXES = (".pth", ".pkl", ".safetensors", ".json", ".zip", ".npy", ".npz", ".png", ".mp4", "")


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_executes_a_file(reader, tmp_path):
    marker = tmp_path / "called"
    for form, data in payloads.files(marker).items():
        for suffix in SUFFIXES:
            path = tmp_path / "in" / f"payload{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            try:
                READERS[reader](path)
            except (ValueError, OSError):
                pass
            finally:
                path.unlink()
            assert not marker.exists(), f"{form} as {path.name}"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A checkpoint folder as a run writes it."""
    output = tmp_path_factory.mktemp("run")
    with distributed_context("cpu") as parallel:
        model = small()
        optimizer = torch.optim.AdamW(model.parameters())
        checkpoints = Checkpoints(output, parallel, keep=1)
        checkpoints.save(1, _tensors(model, optimizer), {"step": 1})
        checkpoints.wait()
        return checkpoints.path(1)


def _tensors(model, optimizer):
    return {"model": model_tensors(model), "optimizer": optimizer_tensors(model, optimizer)}


def _resume(folder: Path) -> None:
    with distributed_context("cpu") as parallel:
        model = small()
        optimizer = torch.optim.AdamW(model.parameters())
        Checkpoints(folder.parent, parallel, keep=1).load(folder, _tensors(model, optimizer))


def _export(folder: Path) -> None:
    export_checkpoint(folder, folder.with_name("out.safetensors"))


FORMS = (
    *("described_by_a_call", "call_inside_the_description", "weight_as_object"),
    *("number_as_object", "call_in_the_place_of_a_tensor", "class_of_another_module"),
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("read", [load_checkpoint, _resume, _export])
def test_no_folder_is_executed(sound, form, read, tmp_path):
    marker, folder = tmp_path / "called", tmp_path / "step_00000001"
    shutil.copytree(sound, folder)
    payloads.folders(sound, marker)[form](folder)
    with pytest.raises(ValueError, match="step_00000001"):
        read(folder)
    assert not marker.exists()


def test_a_sound_folder_is_read(sound):
    _resume(sound)
    model = small()
    torch.nn.init.zeros_(model.query_embed.weight)
    load_weights(model, sound)
    assert torch.equal(model.query_embed.weight, small().query_embed.weight)


def test_a_folder_that_claims_more_than_it_holds_takes_no_memory(sound, tmp_path):
    folder = tmp_path / "step_00000001"
    shutil.copytree(sound, folder)
    payloads.claims_of_size(folder, 2**45)
    with pytest.raises(ValueError, match="larger than the whole folder"):
        load_checkpoint(folder)
