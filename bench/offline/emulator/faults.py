"""What an emulated launch did wrong, with the place in the code and in memory."""

from __future__ import annotations

KINDS = {
    1: "out of bounds",
    2: "misaligned",
    3: "uninitialised memory",
    4: "uninitialised register",
    5: "race within a warp",
    6: "race within a block",
    7: "race between blocks",
    8: "divergent barrier",
    9: "barrier never completes",
    10: "lane does not take part",
    11: "endless",
    12: "trap",
    13: "write to a read-only buffer",
}
RACES = frozenset({"race within a warp", "race within a block", "race between blocks"})


class Fault(RuntimeError):
    """One fault; raised, or kept in a list.

    Attributes:
        kind: a value of KINDS.
        kernel: name of the entry.
        line, text: of the instruction, in the PTX.
        source: "file.py:12:3" where the compiler told it, or "".
        block: (x, y, z).
        warp, lane: within the block.
        address: as the caller knows it, where there is one; within shared or local memory, an
            offset.
        argument: name of the buffer, "shared memory", "local memory", or "".
        offset: bytes from the start of the buffer; negative before it.
        num_bytes: of the buffer.
        other_line, other_text: of the instruction that it races with, or of the other barrier.
        count: how often it happened at this instruction.
    """

    def __init__(
        self,
        kind: str,
        kernel: str,
        *,
        line: int = 0,
        text: str = "",
        source: str = "",
        block: tuple[int, int, int] = (0, 0, 0),
        warp: int = 0,
        lane: int = 0,
        address: int | None = None,
        argument: str = "",
        offset: int | None = None,
        num_bytes: int | None = None,
        other_line: int = 0,
        other_text: str = "",
        other_block: tuple[int, int, int] | None = None,
        count: int = 1,
    ) -> None:
        self.kind, self.kernel = kind, kernel
        self.line, self.text, self.source = line, text, source
        self.block, self.warp, self.lane = block, warp, lane
        self.address, self.argument = address, argument
        self.offset, self.num_bytes = offset, num_bytes
        self.other_line, self.other_text, self.other_block = other_line, other_text, other_block
        self.count = count
        super().__init__(self._sentence())

    @property
    def is_race(self) -> bool:
        """Whether two accesses are not ordered."""
        return self.kind in RACES

    def _sentence(self) -> str:
        where = f"PTX line {self.line}: {self.text!r}"
        if self.source:
            where += f" ({self.source})"
        text = f"{self.kind} in {self.kernel}, {where}, block {self.block}, warp {self.warp}"
        text += f", lane {self.lane}"
        if self.argument:
            text += f", {self._place()}"
        elif self.address is not None:
            text += f", address {self.address:#x}, which is in no buffer"
        if self.other_line:
            text += f"; the other is line {self.other_line}: {self.other_text!r}"
            if self.other_block not in (None, self.block):
                text += f" in block {self.other_block}"
        return text + (f"; {self.count} times" if self.count > 1 else "")

    def _place(self) -> str:
        at = self.offset or 0
        if self.num_bytes is None or 0 <= at < self.num_bytes:
            place = f"byte {at}"
        elif at < 0:
            place = f"{-at} bytes before the start"
        else:
            place = f"{at - self.num_bytes} bytes after the end"
        size = "" if self.num_bytes is None else f" ({self.num_bytes} bytes)"
        return f"{place} of {self.argument}{size}"
