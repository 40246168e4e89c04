"""Damaged results and annotation files through the C code of scoring, under gcc's sanitisers.

python -m tests.fuzz.scorer 20000 [SEED]
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import damage_bytes, damage_value, to_text

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "seqformer" / "evaluation" / "native"
FLAGS = ("-O1", "-g", "-std=gnu11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CHUNK = 500
"""Inputs of one process."""
SIZES = ((10, 20), (1, 1), (7, 3), (720, 1280))


def compiler() -> str | None:
    """One that has the sanitisers, as far as its name tells."""
    return shutil.which("gcc") or shutil.which("clang")


def build(folder: Path) -> Path:
    """Compile the harness. Raises: RuntimeError with what the compiler says."""
    program = folder / "harness"
    source = str(HERE / "scorer_harness.c")
    command = [str(compiler()), *FLAGS, f"-I{NATIVE}", source, "-o", str(program), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return program


def _number(value: int) -> str:
    """One number of compressed run lengths."""
    text = ""
    while True:
        bits, value = value & 31, value >> 5
        is_last = value == (-1 if bits & 16 else 0)
        text += chr(48 + bits + (0 if is_last else 32))
        if is_last:
            return text


def compressed(runs: list[int]) -> str:
    """Run lengths as COCO writes them, whatever their sense."""
    text = ""
    for i, run in enumerate(runs):
        text += _number(run - runs[i - 2] if i > 2 else run)
    return text


def mask(rng: random.Random, height: int, width: int) -> Any:
    """Null, or a mask in one of its forms; runs of zero included."""
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice((None, [], {}, "", None))
    left, runs = height * width, []
    while left > 0 and len(runs) < rng.choice((1, 5, 40, 200)):
        runs.append(min(left, rng.choice((0, 1, 3, rng.randrange(20), rng.randrange(left + 1)))))
        left -= runs[-1]
    runs.append(left)
    counts: Any = runs if kind == 1 else compressed(runs)
    if kind == 2:
        return [[0, 0, width, 0, width, height]]
    made = {"size": [height, width], "counts": counts}
    return dict(reversed(made.items())) if kind == 3 else made


def track(rng: random.Random) -> list[Any]:
    """Masks of a video, nearly always of one size."""
    size = rng.choice(SIZES)
    frames = rng.choice((0, 1, 4, 12))
    return [mask(rng, *(rng.choice(SIZES) if rng.random() < 0.02 else size)) for _ in range(frames)]


def instance(rng: random.Random) -> dict[str, Any]:
    entry = {"video_id": rng.randrange(3), "category_id": rng.randrange(2), "score": rng.random()}
    return {**entry, "segmentations": track(rng)}


def content(rng: random.Random) -> Any:
    """A results file, an annotation file, or a list of masks."""
    kind = rng.randrange(5)
    if kind < 2:
        return [instance(rng) for _ in range(rng.randrange(6))]
    if kind < 4:
        entries = [{"id": 1, **instance(rng), "areas": [1]} for _ in range(rng.randrange(5))]
        return {"videos": [{"id": 0, "name": "é"}], "annotations": entries, "categories": []}
    return track(rng)


def text(rng: random.Random) -> bytes:
    """One input: sound in one of three, else damaged as a value, as bytes, or both."""
    made = content(rng)
    kind = rng.randrange(6)
    if kind in (2, 3):
        made = damage_value(made, rng)
    data = to_text(made) if rng.random() < 0.8 else json.dumps(made, separators=(",", ":")).encode()
    return damage_bytes(data, rng) if kind > 2 else data


def run(program: Path, folder: Path, first: int, stop: int, seed: int) -> str:
    """Inputs first..stop - 1. Returns: the last line of the harness. Raises: AssertionError with
    what the sanitisers found."""
    file = folder / "inputs"
    with file.open("wb") as out:
        for number in range(first, stop):
            data = text(random.Random(f"{seed} {number}"))
            out.write(struct.pack("<q", len(data)) + data)
    done = subprocess.run([str(program), str(file)], capture_output=True, text=True, timeout=600)
    what = (
        f"inputs {first}..{stop} of seed {seed}: exit code {done.returncode}\n{done.stderr[-3000:]}"
    )
    assert done.returncode == 0 and not done.stderr, what
    return done.stdout.strip()


def main() -> None:
    number, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for first in range(0, number, CHUNK):
            line = run(program, Path(folder), first, min(first + CHUNK, number), seed)
            print(f"from {first}: {line}", flush=True)


if __name__ == "__main__":
    main()
