"""A few bytes that claim much: no reader makes room for what a file only says that it holds."""

from __future__ import annotations

import copy
import io
import resource
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from seqformer.model import load_checkpoint
from seqformer.model.checkpoint_folder import _read_tensor, read_description

MOST = 300
"""MiB that a reader may take for a file of a few bytes; the bombs claim gigabytes."""


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.fixture(autouse=True)
def limited():
    """Whatever goes wrong is an error of this test and not the end of the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 6 * 2**30, before[1]))
    peak = peak_mib()
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert peak_mib() - peak < MOST


@pytest.mark.parametrize(
    "claim",
    [
        b"r\xff\xff\xff\x07",  # the object gets the number 2**27
        b"\x96\x00\x00\x00\x40\x00\x00\x00\x00",  # a bytearray of 1 GiB follows
        b"\x8e\x00\x00\x00\x40\x00\x00\x00\x00",  # bytes
        b"\x8d\x00\x00\x00\x40\x00\x00\x00\x00",  # text
        b"\x8b\x00\x00\x00\x40",  # a whole number
        b"\x95\x00\x00\x00\x40\x00\x00\x00\x00",  # a frame
        b"(" * 100_000,
    ],
)
def test_a_description_of_a_checkpoint_folder(claim, tmp_path):
    for data in (b"\x80\x04}" + claim + b".", b"\x80\x04" + claim + b"}."):
        (tmp_path / ".metadata").write_bytes(data)
        with pytest.raises(ValueError, match=r"\.metadata is damaged"):
            read_description(tmp_path)


def test_a_protocol_that_there_is_not(tmp_path):
    (tmp_path / ".metadata").write_bytes(b"\x80\x63}.")
    with pytest.raises(ValueError, match=r"checkpoint .*\.metadata is damaged .*protocol: 99"):
        read_description(tmp_path)


def test_a_weights_file_of_the_old_kind_that_says_more_than_it_has(tmp_path):
    """Its list of numbers that follow is empty, so nothing else compares them."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(7)}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    for old, new in ((b"K\x07N", b"J\x00\x00\x00\x10N"), (b"K\x07\x85", b"J\x00\x00\x00\x10\x85")):
        assert old in data
        data = data.replace(old, new)
    (tmp_path / "a.pth").write_bytes(data[: data.rindex(b"]")] + b"]q\x00.")
    with pytest.raises(ValueError, match=r"shape \[268435456\], but the file holds fewer numbers"):
        load_checkpoint(tmp_path / "a.pth")


def test_a_tensor_of_a_checkpoint_folder_whose_entries_lie_on_one_another():
    buffer = io.BytesIO()
    torch.save(torch.zeros(2**18), buffer)
    assert _read_tensor(buffer, "model.a").numel() == 2**18
    with zipfile.ZipFile(buffer, "a") as archive:
        for number in range(1, 50):
            again = copy.copy(next(e for e in archive.filelist if e.filename.endswith("data/0")))
            again.filename = f"{again.filename[:-1]}{number}"
            archive.filelist.append(again)
        archive._didModify = True
    with pytest.raises(ValueError, match=r"model\.a lists more than it holds"):
        _read_tensor(buffer, "model.a")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("numbers", [b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\0\0\0\x40\0\0\0\0"])
def test_a_safetensors_header_that_is_not_there(numbers, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(numbers + b"{}")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_checkpoint(tmp_path / "a.safetensors")
