"""Files that try to call a function of the process that reads them."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)


class Call:
    """Unpickling it makes the folder `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.marker,)


def pickled(marker: Path) -> bytes:
    return pickle.dumps(Call(marker))


def files(marker: Path) -> dict[str, bytes]:
    """Name of a form -> the bytes of a file in it."""
    saved = io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(2)}, "args": Call(marker)}, saved)
    legacy = io.BytesIO()
    torch.save({"model": Call(marker)}, legacy, _use_new_zipfile_serialization=False)
    objects = io.BytesIO()
    np.save(objects, np.array([Call(marker)], object), allow_pickle=True)
    archive = io.BytesIO()
    np.savez(archive, a=np.array([Call(marker)], object))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("results.json", pickled(marker))
        file.writestr("archive/data.pkl", pickled(marker))
        file.writestr("archive/version", "3\n")
    return {
        "pickle": pickled(marker),
        "old pickle": pickle.dumps(Call(marker), protocol=0),
        "torch": saved.getvalue(),
        "torch, legacy": legacy.getvalue(),
        "npy": objects.getvalue(),
        "npz": archive.getvalue(),
        "zip": packed.getvalue(),
    }


def folders(sound: Path, marker: Path) -> dict[str, Callable[[Path], None]]:
    """Name of a form -> what makes a copy of a sound checkpoint folder such a one."""
    described = pickle.loads((sound / ".metadata").read_bytes())  # made by the test itself

    def described_by_a_call(folder: Path) -> None:
        (folder / ".metadata").write_bytes(pickled(marker))

    def call_inside_the_description(folder: Path) -> None:
        content = pickle.loads((folder / ".metadata").read_bytes())
        content.planner_data = Call(marker)
        (folder / ".metadata").write_bytes(pickle.dumps(content))

    def weight_as_object(folder: Path) -> None:
        _replace(folder, next(key for key in described.state_dict_metadata if "model." in key))

    def number_as_object(folder: Path) -> None:
        _replace(folder, next(key for key in described.state_dict_metadata if "step" in key))

    def _replace(folder: Path, key: str) -> None:
        content = pickle.loads((folder / ".metadata").read_bytes())
        content.state_dict_metadata[key] = BytesStorageMetadata()
        content.storage_data = {k: v for k, v in content.storage_data.items() if k.fqn != key}
        payload = io.BytesIO()
        torch.save(Call(marker), payload)
        (folder / "__9_0.distcp").write_bytes(payload.getvalue())
        place = _StorageInfo("__9_0.distcp", 0, len(payload.getvalue()))
        content.storage_data[MetadataIndex(key)] = place
        (folder / ".metadata").write_bytes(pickle.dumps(content))

    def call_in_the_place_of_a_tensor(folder: Path) -> None:
        payload = io.BytesIO()
        torch.save(Call(marker), payload)
        for path in folder.glob("*.distcp"):
            path.write_bytes(payload.getvalue().ljust(path.stat().st_size, b"\0"))
        content = pickle.loads((folder / ".metadata").read_bytes())
        size = len(payload.getvalue())
        content.storage_data = {
            k: _StorageInfo(v.relative_path, 0, size) for k, v in content.storage_data.items()
        }
        (folder / ".metadata").write_bytes(pickle.dumps(content))

    def class_of_another_module(folder: Path) -> None:
        text = (folder / ".metadata").read_bytes()
        (folder / ".metadata").write_bytes(text.replace(b"_get_layout", b"_save_debug"))

    made = (
        *(described_by_a_call, call_inside_the_description, weight_as_object),
        *(number_as_object, call_in_the_place_of_a_tensor, class_of_another_module),
    )
    return {function.__name__: function for function in made}


def claims_of_size(folder: Path, size: int) -> None:
    """Give a folder's first tensor a side of `size` in its description."""
    content: Metadata = pickle.loads((folder / ".metadata").read_bytes())
    key = next(iter(content.state_dict_metadata))
    whole = torch.Size([size])
    content.state_dict_metadata[key] = TensorStorageMetadata(
        TensorProperties(torch.float32), whole, [ChunkStorageMetadata(torch.Size([0]), whole)]
    )
    (folder / ".metadata").write_bytes(pickle.dumps(content))
