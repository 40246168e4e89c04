"""Machine code as Triton's CUDA tools print it: what is in it, and what one warp executes."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


def tool(name: str, *arguments: str) -> str:
    """Output of one of the CUDA tools that Triton ships."""
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    done = subprocess.run([str(folder / name), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout + done.stderr


@dataclass
class Listing:
    """A disassembly.

    Attributes:
        instructions: opcode and operands, in order.
        loops: first and last instruction of every loop body.
        jumps: first and last instruction that every conditional jump forward goes over.
    """

    instructions: list[str]
    loops: list[tuple[int, int]]
    jumps: list[tuple[int, int]]

    @classmethod
    def parse(cls, code: str) -> Listing:
        instructions: list[str] = []
        labels: dict[str, int] = {}
        for line in code.splitlines():
            if label := re.match(r"\s*(\.L_\w+):", line):
                labels[label.group(1)] = len(instructions)
            elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
                instructions.append(found.group(1))
        while instructions and instructions[-1].split()[0] == "NOP":
            instructions.pop()
        loops, jumps = [], []
        for index, text in enumerate(instructions):
            target = re.search(r"\bBRA\b.*\(?(\.L_\w+)", text)
            # a branch to itself is the padding behind the code
            to = labels.get(target.group(1), index) if target else index
            if to < index:
                loops.append((to, index))
            elif to > index and text.startswith("@"):
                jumps.append((index + 1, to - 1))
        return cls(instructions, loops, jumps)

    def executed(self, trips: int, taken: float = 1.0) -> float:
        """Instructions of one warp, every loop run `trips` times.

        Args:
            taken: share of the trips that do not take the longest jump within a loop.
        """
        times = [1.0] * len(self.instructions)
        for first, last in self.loops:
            for index in range(first, last + 1):
                times[index] *= trips
            inside = [jump for jump in self.jumps if first <= jump[0] and jump[1] <= last]
            start, end = max(inside, key=lambda jump: jump[1] - jump[0], default=(0, -1))
            for index in range(start, end + 1):
                times[index] *= taken
        return sum(times)

    def spilled_bytes(self) -> int:
        """Bytes that a thread moves to and from local memory, by the code."""
        widths = {"64": 8, "128": 16}
        return sum(
            number * widths.get(opcode.split(".")[-1], 4)
            for opcode, number in self.count(r"STL|LDL").items()
        )

    def count(self, pattern: str) -> dict[str, int]:
        """Static opcodes that start with the pattern, with their modifiers."""
        opcodes = (re.sub(r"@!?U?P\w+\s+", "", text).split()[0] for text in self.instructions)
        return dict(sorted(Counter(o for o in opcodes if re.match(pattern, o)).items()))
