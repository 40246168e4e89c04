"""ImageNet weights: found in caches by name and checksum, or fetched from a server on loopback."""

from __future__ import annotations

import hashlib
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path

import pytest
import torch

from seqformer.model import (
    build_model,
    download_backbone_weights,
    find_backbone_weights,
    imagenet_files,
    load_backbone_weights,
)
from seqformer.model.convert import official_swin_names

SMALL = dict(
    hidden_dim=32, num_heads=4, num_encoder_layers=1, num_decoder_layers=1, num_queries=3,
    ffn_dim=16, mask_dim=8, num_classes=2,
)  # fmt: skip


def weights_file(tensors: int = 3) -> bytes:
    buffer = BytesIO()
    torch.save({f"layer.{i}": torch.full((50,), float(i)) for i in range(tensors)}, buffer)
    return buffer.getvalue()


CONTENT = weights_file()
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def caches(tmp_path, monkeypatch) -> Path:
    """Empty caches of torch and the hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    assert imagenet_files.torch_folder() == folder
    return folder


class Answers(BaseHTTPRequestHandler):
    """What the server does with a request, by the first part of its path."""

    def do_GET(self):
        kind = self.path.split("/")[1]
        if kind == "absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if kind == "whole":
            self.wfile.write(CONTENT)
        elif kind == "other":
            self.wfile.write(CONTENT[::-1])
        elif kind == "reset":
            self.wfile.write(CONTENT[:100])
            self.wfile.flush()
            linger = b"\1\0\0\0\0\0\0\0"
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        else:
            self.wfile.write(CONTENT[: len(CONTENT) // 2])

    def log_message(self, *arguments):
        """Say nothing."""


@contextmanager
def server():
    made = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}"
    finally:
        made.shutdown()
        made.server_close()


def serve_from(monkeypatch, url: str) -> None:
    monkeypatch.setitem(imagenet_files.URLS, "resnet50", (url,))


def test_nothing_is_found_in_empty_caches(caches):
    assert find_backbone_weights("resnet50") is None


def test_torchs_folder_is_searched_by_name_and_checksum(caches, monkeypatch, caplog):
    serve_from(monkeypatch, f"http://x/resnet50-{DIGEST[:8]}.pth")
    file = caches / f"resnet50-{DIGEST[:8]}.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT[:-1])
    assert find_backbone_weights("resnet50") is None
    assert "is damaged and is passed by" in caplog.text and str(file) in caplog.text
    file.write_bytes(CONTENT)
    assert find_backbone_weights("resnet50") == file


def test_the_cache_of_the_hub_is_searched(caches, tmp_path):
    repository = tmp_path / "hub" / "models--timm--resnet50.tv_in1k"
    blob = repository / "blobs" / DIGEST
    file = repository / "snapshots" / "0123" / "model.safetensors"
    for path in (blob, file):
        path.parent.mkdir(parents=True)
    blob.write_bytes(CONTENT)
    file.symlink_to(blob)
    assert find_backbone_weights("resnet50") == file
    blob.write_bytes(CONTENT[:-1])
    assert find_backbone_weights("resnet50") is None


def test_a_download_is_checked_and_found_afterwards(caches, monkeypatch, capsys):
    with server() as url:
        serve_from(monkeypatch, f"{url}/whole/resnet50-{DIGEST[:8]}.pth")
        path = download_backbone_weights("resnet50")
    assert path.read_bytes() == CONTENT and find_backbone_weights("resnet50") == path
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["other", "cut", "reset", "absent"])
@pytest.mark.parametrize("name", [f"resnet50-{DIGEST[:8]}.pth", "swin_without_digest.pth"])
def test_a_broken_transfer_leaves_nothing_and_says_what_to_do(caches, monkeypatch, kind, name):
    with server() as url:
        serve_from(monkeypatch, f"{url}/{kind}/{name}")
        with pytest.raises(
            ValueError, match=r"download that file elsewhere and put it to"
        ) as error:
            download_backbone_weights("resnet50", show_progress=False)
    sentence = str(error.value)
    assert str(caches / name) in sentence and f"{url}/{kind}/{name}" in sentence
    assert "--backbone-weights FILE" in sentence and "\n" not in sentence
    assert list(caches.iterdir()) == []


def test_without_a_network_one_sentence_says_which_file_to_put_where(caches, monkeypatch):
    with server() as url:
        pass  # nobody listens there any more
    serve_from(monkeypatch, f"{url}/whole/resnet50-{DIGEST[:8]}.pth")
    with pytest.raises(ValueError, match=r"in no cache of this machine, .* cannot be fetched"):
        download_backbone_weights("resnet50", show_progress=False)


def test_every_backbone_of_a_preset_has_a_file():
    from seqformer.config import presets

    backbones = {config.model.backbone for name, (_, config) in presets().items()}
    assert backbones - {"resnet_mini"} <= set(imagenet_files.URLS)


def test_swin_files_of_timm_load_like_the_official_ones(tmp_path):
    torch.manual_seed(0)
    model = build_model("swin_t", **SMALL)
    official = {
        name: tensor.clone()
        for name, tensor in model.backbone.state_dict().items()
        if not name.startswith(("norm0", "norm1", "norm2", "norm3"))
    }
    moved = {}
    for name, tensor in official.items():
        if name.endswith("relative_position_index"):
            continue  # not in timm's files
        stage = name.split(".")[1] if ".downsample." in name else None
        new = name if stage is None else name.replace(f".{stage}.", f".{int(stage) + 1}.", 1)
        moved[new] = tensor
    moved["head.fc.weight"] = torch.zeros(2, 768)
    assert "layers.3.downsample.reduction.weight" in moved
    torch.save(moved, tmp_path / "timm.pth")
    other = build_model("swin_t", **SMALL)
    load_backbone_weights(other, tmp_path / "timm.pth")
    loaded = other.backbone.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in official.items())
    assert official_swin_names(official) is official
