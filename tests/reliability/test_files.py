"""Files are whole or not there, failures name them, and a lock ends with its process."""

from __future__ import annotations

import errno
import os
import resource
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from seqformer.files import (
    InUseError,
    WriteError,
    append_line,
    locked,
    make_folder,
    remove_leftovers,
    replacing,
    write_atomically,
    write_bytes,
    write_json,
    write_text,
)

FORK = get_context("fork")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def full(file) -> None:
    file.write(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failure_leaves_the_old_content_and_names_the_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, [1])
    with pytest.raises(WriteError, match=r"cannot write .*/a\.json \(No space left.*free some"):
        write_atomically(path, full)
    with pytest.raises(TypeError):
        write_json(path, [object()])
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "[1]" and names(tmp_path) == ["a.json"]


def test_a_link_stays_one_and_no_pipe_or_device_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "elsewhere" / "a.json")
    write_json(link, [1])
    write_json(link, [2])
    assert link.is_symlink() and (tmp_path / "elsewhere" / "a.json").read_text() == "[2]"

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("pipe", "device"):
        for write in (write_text, append_line):  # neither waits for a reader
            with pytest.raises(WriteError, match=f"{name} .*no regular file"):
                write(tmp_path / name, "x")
    assert (tmp_path / "pipe").is_fifo() and Path("/dev/null").is_char_device()
    assert names(tmp_path) == ["device", "elsewhere", "link.json", "pipe"]


def limited(path: Path, size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        write_bytes(path, bytes(100_000))
    except WriteError as error:
        os._exit(10 if "a.bin (File too large)" in str(error) else 11)
    os._exit(12)


def test_what_the_system_refuses_in_the_middle_is_said(tmp_path):
    """Small files fit into a buffer: what fails is only the flush, or the end."""
    for size in (0, 10, 50_000):
        process = FORK.Process(target=limited, args=(tmp_path / "a.bin", size))
        process.start()
        process.join()
        assert process.exitcode == 10 and names(tmp_path) == []


@pytest.mark.parametrize("write", [write_text, append_line])
def test_a_folder_that_is_gone_is_said(write, tmp_path):
    with pytest.raises(WriteError, match=r"gone/log \(No such file.*still there"):
        write(tmp_path / "gone" / "log", "text")
    with pytest.raises(WriteError, match=r"cannot write .*\(Is a directory"):
        write(tmp_path, "text")


def test_what_is_wrong_with_a_file_that_is_read_stays_so(tmp_path):
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "a"):
        (tmp_path / "frame.jpg").read_bytes()
    assert not isinstance(error.value, WriteError) and error.value.filename.endswith("frame.jpg")
    with pytest.raises(OSError, match=r"^our own sentence$"), replacing(tmp_path / "a"):
        raise OSError("our own sentence")


def test_temporary_files_of_the_dead_are_removed(tmp_path):
    for name in (".a.json.123.tmp", ".b.json.123.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a.json")
    assert names(tmp_path) == [".b.json.123.tmp"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"cannot write into .*choose another --output"):
        make_folder(tmp_path / "file" / "run", "--output")
    make_folder(tmp_path / "a" / "b", "--output")
    assert names(tmp_path / "a" / "b") == []


def hold(path: Path, answer) -> None:
    try:
        with locked(path, "it"):
            answer.send(True)
            signal.pause()
    except InUseError:
        answer.send(False)


def refused(path: Path) -> None:
    try:
        with locked(path, "the run"):
            pass
        os._exit(0)
    except InUseError as error:
        is_told = "the run is in use by another process (process " in str(error)
        os._exit(10 if is_told else 11)


def ask(path: Path) -> int:
    process = FORK.Process(target=refused, args=(path,))
    process.start()
    process.join()
    return process.exitcode


def test_a_lock_refuses_others_and_ends_with_its_process(tmp_path):
    path = tmp_path / ".lock"
    here, there = FORK.Pipe()
    holder = FORK.Process(target=hold, args=(path, there))
    holder.start()
    here.recv()
    assert ask(path) == 10
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert path.exists() and ask(path) == 0
    assert names(tmp_path) == []


def test_a_lock_is_not_shared_by_forked_helpers(tmp_path):
    """A decoding process that outlives its parent for a moment must not keep its lock."""
    path = tmp_path / ".lock"
    with locked(path, "it"):
        helper = FORK.Process(target=signal.pause)
        helper.start()
        with locked(path, "it"):  # its own lock refuses nobody
            assert ask(path) == 10
        assert ask(path) == 10
    assert helper.is_alive() and ask(path) == 0
    helper.kill()
    helper.join()


def test_only_one_of_many_gets_a_lock(tmp_path):
    path = tmp_path / ".lock"
    for _ in range(5):
        ready = [FORK.Pipe() for _ in range(4)]
        racers = [FORK.Process(target=hold, args=(path, there)) for _, there in ready]
        for racer in racers:
            racer.start()
        assert sum(here.recv() for here, _ in ready) == 1
        for racer in racers:
            racer.kill()
            racer.join()


def test_a_disk_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def cannot(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("seqformer.files.fcntl.flock", cannot)
    with locked(tmp_path / ".lock", "it"):
        assert "cannot be locked" in caplog.text
