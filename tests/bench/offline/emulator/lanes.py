"""One instruction on many operands: a small program that loads, executes and stores, by lane."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.offline.emulator import Buffer, Launch, Options, Program

_REGISTER = {1: "%p", 16: "%h", 32: "%r", 64: "%d"}
_DTYPE = {1: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
REGISTERS = ".reg .pred %p<40>; .reg .b16 %h<80>; .reg .b32 %r<80>; .reg .b64 %d<80>;"


def kernel(
    body: str,
    parameters: str = "",
    threads: int | tuple[int, int, int] = 32,
    module: str = "",
) -> str:
    """PTX of a kernel `k` with %p, %h, %r and %d registers of 1, 16, 32 and 64 bits."""
    threads = (threads,) if isinstance(threads, int) else threads
    return (
        f".version 8.6\n.target sm_100\n.address_size 64\n{module}\n"
        f".visible .entry k({parameters})\n.reqntid {', '.join(map(str, threads))}\n"
        f"{{\n{REGISTERS}\n{body}\nret;\n}}\n"
    )


def buffer(array: np.ndarray, name: str = "", **more: object) -> Buffer:
    """The memory of an array."""
    return Buffer(array.ctypes.data, array.nbytes, name, **more)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy at a multiple of 64 bytes, as memory of a GPU would be."""
    raw = np.zeros(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def launch(
    ptx: str,
    arguments: Sequence[int | float | np.ndarray],
    options: Options | None = None,
    grid: tuple[int, int, int] = (1, 1, 1),
    shared_bytes: int = 0,
) -> Launch:
    """Run; arrays are passed as pointers to buffers named a, b, c, ..."""
    values: list[int | float | Buffer] = []
    for argument in arguments:
        is_array = isinstance(argument, np.ndarray)
        name = "abcdefgh"[len(values)]
        values.append(buffer(argument, name) if is_array else argument)
    buffers = [v for v in values if isinstance(v, Buffer)]
    return Program.decode(ptx, shared_bytes).run(grid, values, buffers, options)


@dataclass(frozen=True)
class Case:
    """An instruction and what it should do.

    Attributes:
        head: opcode and modifiers.
        results, operands: bits of the registers; 1 for predicates.
        expected: operands of one lane as unsigned numbers -> the result's bits, or a tuple.
        inputs: operands by position.
        form: how the operands are written; by default "d, e, a, b, c, f".
        any_nan: the result is a float64, whose NaN may have any bits.
    """

    head: str
    results: tuple[int, ...]
    operands: tuple[int, ...]
    expected: Callable[..., int | tuple[int, ...]]
    inputs: Sequence[Sequence[int]]
    form: str = ""
    any_nan: bool = False

    def __str__(self) -> str:
        return self.head + (f" {self.form}" if self.form else "")


def evaluate(case: Case, options: Options | None = None) -> list[np.ndarray]:
    """Results of a case's instruction for all its operands."""
    number = len(case.inputs[0])
    padded = -(-number // 32) * 32
    names = {}
    body, arguments, counts = [], [], dict.fromkeys(_REGISTER, 0)

    def register(bits: int) -> str:
        counts[bits] += 1
        return f"{_REGISTER[bits]}{counts[bits] + 9}"

    body.append("mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x; mad.lo.u32 %r3, %r1, 32, %r2;")
    for k, bits in enumerate(case.operands):
        array = np.zeros(padded, _DTYPE[bits])
        array[:number] = np.array([int(v) for v in case.inputs[k]], dtype=np.uint64)
        array[number:] = array[0]
        arguments.append(array)
        names["abcf"[k]] = target = register(bits)
        size = max(bits, 8) // 8
        body.append(f"ld.param.u64 %d1, [p{k}]; mad.wide.u32 %d2, %r3, {size}, %d1;")
        if bits == 1:
            body.append(f"ld.global.u8 %r4, [%d2]; setp.ne.u32 {target}, %r4, 0;")
        else:
            body.append(f"ld.global.b{bits} {target}, [%d2];")
    for k, bits in enumerate(case.results):
        names["de"[k]] = register(bits)
    operands = [names[n] for n in "deabcf" if n in names]
    form = re.sub(r"\b([deabcf])\b", lambda m: names[m.group(1)], case.form)
    body.append(f"{case.head} {form or ', '.join(operands)};")
    results = []
    for k, bits in enumerate(case.results):
        results.append(np.zeros(padded, _DTYPE[bits]))
        size, place = max(bits, 8) // 8, len(case.operands) + k
        body.append(f"ld.param.u64 %d1, [p{place}]; mad.wide.u32 %d2, %r3, {size}, %d1;")
        source = names["de"[k]]
        if bits == 1:
            body.append(f"selp.u32 %r4, 1, 0, {source}; st.global.u8 [%d2], %r4;")
        else:
            body.append(f"st.global.b{bits} [%d2], {source};")
    parameters = ", ".join(f".param .u64 p{k}" for k in range(len(arguments) + len(results)))
    ptx = kernel("\n".join(body), parameters)
    launch(ptx, arguments + results, options, (padded // 32, 1, 1))
    return [r[:number] for r in results]


def check(case: Case, options: Options | None = None) -> None:
    """Every lane's result is what is expected."""
    results = evaluate(case, options)
    for lane, operands in enumerate(zip(*case.inputs, strict=True)):
        expected = case.expected(*map(int, operands))
        expected = expected if isinstance(expected, tuple) else (expected,)
        got = tuple(int(r[lane]) for r in results)
        if case.any_nan and _is_nan64(got[0]) and _is_nan64(expected[0]):
            continue
        assert got == expected, (
            f"{case} of {[hex(int(o)) for o in operands]}: "
            f"{[hex(g) for g in got]}, expected {[hex(e) for e in expected]}"
        )


def _is_nan64(bits: int) -> bool:
    return bits & ~(1 << 63) > 0x7FF << 52


_EDGES = {
    1: (0, 1),
    16: (0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF),
    32: (0, 1, 2, 5, 31, 32, 33, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0x80000001,
         0xFFFFFFF0, 0xFFFFFFFF),
    64: (0, 1, 3, 31, 63, 64, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 63) + 1,
         (1 << 64) - 2, (1 << 64) - 1),
}  # fmt: skip


def integers(*widths: int, seed: int = 0) -> list[list[int]]:
    """Operands of these widths: edge cases in combination, then random bits."""
    generator = np.random.default_rng(seed)
    columns: list[list[int]] = [[] for _ in widths]

    def add(values: Sequence[int]) -> None:
        for column, value in zip(columns, values, strict=True):
            column.append(int(value))

    if len(widths) == 1:
        for value in _EDGES[widths[0]]:
            add((value,))
    else:
        for a in _EDGES[widths[0]]:
            for b in _EDGES[widths[1]]:
                rest = [generator.choice(np.array(_EDGES[w], np.uint64)) for w in widths[2:]]
                add((a, b, *rest))
    for _ in range(60):
        draws = [int.from_bytes(generator.bytes(8), "little") % (1 << w) for w in widths]
        add(draws)
    return columns
