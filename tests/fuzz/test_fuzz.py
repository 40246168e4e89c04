"""Thousands of damaged files at every door: no signal, no traceback, no hang, no code executed."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 90.0
"""Seconds without a new case after which the process hangs."""


def tried(folder: Path, seed: int, number: int) -> tuple[int, list[str]]:
    """How many cases were tried, and what was wrong with them.

    A process that a case has killed is followed by another one, which goes on after that case.
    """
    done, problems = 0, []
    while done < number and len(problems) < 10:
        command = [sys.executable, "-m", "tests.fuzz.doors", folder, seed, done, number]
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        errors: list[str] = []
        reader = threading.Thread(target=lambda p=process, e=errors: e.extend(p.stderr or ()))
        reader.start()
        last = "before the first case"
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        for line in process.stdout or ():
            watch.cancel()
            if line.startswith("PROBLEM"):
                problems.append(line.strip())
            elif case := re.match(r"case (\d+) ", line):
                last, done = line.strip(), int(case[1]) + 1
            if line.strip() != "end":
                watch = threading.Timer(PATIENCE, process.kill)
                watch.start()
        code = process.wait()
        watch.cancel()
        reader.join()
        if code:
            where = [line.strip() for line in errors if "File " in line or "Error" in line]
            problems.append(f"{last} ended the process ({code}): {' | '.join(where[:4])}")
    return done, problems


def test_a_thousand_damaged_files(tmp_path):
    assert tried(tmp_path, seed=15, number=1000) == (1000, [])


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(5))
def test_fifty_thousand_damaged_files(tmp_path, seed):
    assert tried(tmp_path, seed=1000 + seed, number=10_000) == (10_000, [])
