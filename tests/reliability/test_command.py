"""Whatever goes wrong in a command is one sentence, an exit code and, if need be, a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from seqformer.command import Command, is_out_of_memory

ROOT = Path(__file__).parents[2]


def script(body: str) -> list[str]:
    text = "import os, sys, threading, time, signal\nfrom seqformer.command import exit_with\n"
    text += f"def main():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
    return [sys.executable, "-c", f"{text}exit_with('tool', main)"]


def run(body: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), **options.pop("env", {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        script(body),
        text=True,
        env=environment,
        timeout=60,
        preexec_fn=answer_interrupts,
        **options,
    )


def answer_interrupts() -> None:
    """Whoever runs the tests in the background has their processes ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def only_line(done: subprocess.CompletedProcess) -> str:
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    return line


def kept_in(line: str) -> str:
    """The content of the file that a sentence names."""
    return Path(re.search(r"the traceback is in (\S+)$", line)[1]).read_text()


def test_the_unexpected_is_a_sentence_and_its_traceback_a_file(tmp_path):
    environment = {"TMPDIR": str(tmp_path)}
    done = run("def deep(): return {}['key']\ndeep()", env=environment)
    line = only_line(done)
    assert done.returncode == 70 and line.startswith("tool: error: unexpected KeyError: 'key'; ")
    text = kept_in(line)
    assert "in deep" in text and "KeyError: 'key'" in text and "Python 3" in text

    done = run("import numpy\nnumpy.zeros(2) + numpy.zeros(3)", env=environment)
    line = only_line(done)
    assert "could not be broadcast" in line and "ValueError" in kept_in(line)
    done = run("class Odd(BaseException): pass\nraise Odd('of a library')", env=environment)
    assert done.returncode == 70 and "unexpected Odd: of a library" in only_line(done)
    done = run("import no_such_package", env=environment)
    assert "No module named 'no_such_package'" in only_line(done)


def test_our_own_sentences_stand_alone():
    done = run(
        "from seqformer.config import DataConfig\nDataConfig(num_frames=0)", env={"TMPDIR": "/x"}
    )
    assert done.returncode == 2
    assert only_line(done) == "tool: error: data.num_frames must be at least 1, got 0"
    done = run("open('/no/such/file')")
    assert only_line(done) == "tool: error: /no/such/file: No such file or directory"


def test_codes_pass():
    assert [run(f"return {value}").returncode for value in (None, 0, 3)] == [0, 0, 3]
    assert run("sys.exit(5)").returncode == 5
    done = run("raise KeyboardInterrupt")
    assert done.returncode == 130 and only_line(done) == "tool: interrupted"


def test_being_asked_to_end_tidies_up(tmp_path):
    body = f"""
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        open({str(tmp_path / "tidy")!r}, "w").close()
    """
    process = subprocess.Popen(
        script(body),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "tool: stopped by SIGTERM\n")
    assert (tmp_path / "tidy").exists()


@pytest.mark.parametrize("second", ["SIGTERM", "SIGHUP"])
def test_a_request_that_comes_while_the_process_ends_changes_no_exit_code(second):
    done = run(f"""
    import atexit
    atexit.register(lambda: signal.raise_signal(signal.{second}))
    signal.raise_signal(signal.SIGTERM)
    """)
    assert (done.returncode, done.stderr) == (143, "tool: stopped by SIGTERM\n")


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        script("for i in range(100_000): print(i)"),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 1


def test_output_on_a_full_disk_is_said():
    command = [sys.executable, "-m", "seqformer", "--help"]
    with open("/dev/full", "w") as full:
        options = {"stdout": full, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
        done = subprocess.run(command, timeout=60, **options)
    assert done.returncode == 2
    assert only_line(done) == (
        "seqformer: error: standard output cannot be written (No space left on device)"
    )


def test_threads_and_deleted_objects_print_no_traceback(tmp_path):
    body = """
    class Odd:
        def __del__(self): raise RuntimeError("odd")
    def fail(): raise RuntimeError("in a thread of ours")
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Odd()
    """
    done = run(body, env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 0 and "Traceback" not in done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith("tool: in a thread: unexpected RuntimeError: in a thread of ours; ")
    assert second.startswith("tool: while cleaning up: unexpected RuntimeError: odd; ")


def test_among_several_processes_the_rank_is_said_and_nothing_is_waited_for():
    """A thread that waits for another process does not hold a failed one back."""
    body = """
    threading.Thread(target=time.sleep, args=(50,)).start()
    raise ValueError("no")
    """
    began = time.monotonic()
    done = run(body, env={"WORLD_SIZE": "4", "RANK": "3"})
    assert done.returncode == 2 and "tool: rank 3: error: no" in only_line(done)
    assert time.monotonic() - began < 45


def test_closed_streams_are_no_error():
    command = [sys.executable, "-c", "pass"]
    assert subprocess.run(command, timeout=60).returncode == 0
    shell = f'exec {sys.executable} -c "$0" >&- 2>&-'
    text = script("print('x'); sys.stdout.flush(); return 3")[-1]
    done = subprocess.run(
        ["sh", "-c", shell, text], env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60
    )
    assert done.returncode == 3


@pytest.mark.parametrize(
    "error,expected",
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't al"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("std::bad_alloc"), False),
    ],
)
def test_lack_of_memory_is_known_in_all_its_forms(error, expected):
    assert is_out_of_memory(error) is expected
    code, sentence = Command("tool").explain(error)
    assert ("out of memory" in sentence) is expected and code in (2, 70)


@pytest.mark.parametrize("is_inside", [False, True])
def test_an_interruption_that_a_library_swallows_is_still_one(is_inside):
    """Its modules are half loaded then, and fail in odd ways."""
    for number, code, words in (
        (signal.SIGINT, 130, "tool: interrupted"),
        (signal.SIGUSR1, 143, "tool: stopped by SIGUSR1"),
    ):
        body = f"""
        try:
            os.kill(os.getpid(), {int(number)})
            time.sleep(60)
        except BaseException:
            pass
        {{}}["half loaded"]
        """
        if is_inside:  # as in train.py
            body = f"def act():\n{textwrap.indent(textwrap.dedent(body), '    ')}"
            body = f"from seqformer.command import Command\n{body}\nreturn Command('tool').run(act)"
        done = run(body)
        assert (done.returncode, only_line(done)) == (code, words)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_module_is_imported_whole_before_the_end(number, tmp_path):
    """Native code of some libraries aborts when an exception comes while they are imported."""
    text = "import os, time, pathlib\nos.kill(os.getpid(), {})\ntime.sleep(0.3)\n{}\n"
    whole = tmp_path / "whole"
    module = text.format(int(number), f"pathlib.Path({str(whole)!r}).touch()")
    (tmp_path / "slow_module.py").write_text(module)
    done = run(f"sys.path.append({str(tmp_path)!r})\nimport slow_module\ntime.sleep(60)")
    assert done.returncode == (130 if number == signal.SIGINT else 143)
    assert whole.exists() and "tool: " in only_line(done)
