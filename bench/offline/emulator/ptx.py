"""PTX text -> statements: the entry, its parameters, variables, registers, labels, instructions.

Nothing is decided here about what an instruction means. A scope in braces may declare registers of
its own, as inline assembly does; they get names of their own, so that a name is one register
throughout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

WIDTHS = {
    "pred": 1,
    **dict.fromkeys(("b8", "u8", "s8"), 8),
    **dict.fromkeys(("b16", "u16", "s16", "f16", "bf16"), 16),
    **dict.fromkeys(("b32", "u32", "s32", "f32", "f16x2", "bf16x2"), 32),
    **dict.fromkeys(("b64", "u64", "s64", "f64"), 64),
    "b128": 128,
}
"""Bits of a type."""

_ENTRY = re.compile(r"\.entry\s+([\w$.]+)\s*(?:\((.*?)\))?([^{;]*)\{", re.S)
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s*(?:\.ptr[.\w\s]*?)?\s([\w$.]+)\s*(?:\[(\d*)\])?\s*$"
)
_VARIABLE = re.compile(
    r"^(?:\.visible\s+|\.weak\s+|\.extern\s+|\.common\s+)*\.(shared|global|local|const)\s+"
    r"(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$.]+)\s*((?:\[\d*\])*)\s*(?:=\s*(.*))?$",
    re.S,
)
_LABEL = re.compile(r"([\w$.]+)\s*:(?!:)\s*")
_GUARD = re.compile(r"@\s*(!?)\s*(%?[\w$]+)\s+")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s{\[][^,]*")
_NAME = re.compile(r"(?<![\w$%.])%?[A-Za-z_$][\w$]*")


class PtxError(ValueError):
    """The text cannot be read: what, and at which line."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of the entry.

    Attributes:
        type: PTX type of an element, "u64", "f32", ...
        offset, size: bytes in the parameter block.
    """

    name: str
    type: str
    offset: int
    size: int


@dataclass(frozen=True)
class Variable:
    """A variable with an address.

    Attributes:
        space: "shared", "global", "local" or "const".
        size: bytes; 0 for the array whose size the launch decides.
        data: what it holds at first, zeros appended.
    """

    name: str
    space: str
    align: int
    size: int
    data: bytes = b""


@dataclass(frozen=True)
class Statement:
    """An instruction.

    Attributes:
        line: in the text, from 1.
        guard: name of the predicate, or "".
        head: opcode with its modifiers, without spaces.
        operands: as written; vectors in braces, addresses in brackets.
        source: "file.py:12:3", or "" where the compiler tells none.
    """

    line: int
    text: str
    guard: str
    is_negated: bool
    head: str
    operands: tuple[str, ...]
    source: str


@dataclass
class Kernel:
    """One entry of a module.

    Attributes:
        threads: of a block, (x, y, z), or None where the text does not say.
        registers: name -> bits.
        labels: name -> index of a statement.
    """

    name: str
    threads: tuple[int, int, int] | None
    parameters: list[Parameter]
    variables: dict[str, Variable]
    registers: Registers
    statements: list[Statement] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


class Registers:
    """Declared names -> bits; `%r<8>` declares %r0 to %r7."""

    def __init__(self) -> None:
        self._single: dict[str, int] = {}
        self._families: dict[str, tuple[int, int]] = {}

    def declare(
        self, type_: str, names: str, line: int, rename: dict[str, str], suffix: str
    ) -> None:
        """Add what a `.reg` directive declares."""
        bits = WIDTHS.get(type_)
        if bits is None:
            raise PtxError(f"line {line}: registers of type .{type_} are not emulated")
        for name in (n.strip() for n in names.split(",")):
            family = re.fullmatch(r"([%\w$]+)<(\d+)>", name)
            if family and not suffix:
                self._families[family.group(1)] = (bits, int(family.group(2)))
                continue
            singles = [name]
            if family:
                singles = [f"{family.group(1)}{k}" for k in range(int(family.group(2)))]
            for single in singles:
                if suffix:
                    rename[single] = single + suffix
                self._single[single + suffix] = bits

    def bits(self, name: str) -> int | None:
        """Width, or None if there is no such register."""
        known = self._single.get(name)
        if (
            known is None
            and name[0] not in "-0123456789"
            and (parts := re.fullmatch(r"(%?[A-Za-z_$][\w$]*?)(\d+)", name))
        ):
            bits, number = self._families.get(parts.group(1), (0, 0))
            if int(parts.group(2)) < number:
                known = self._single[name] = bits
        return known


def parse(text: str, entry: str | None = None) -> Kernel:
    """One entry of a module.

    Args:
        text: PTX.
        entry: its name; needed where there are several.

    Raises: PtxError.
    """
    entries = list(_ENTRY.finditer(_without_comments(text)))
    names = [e.group(1) for e in entries]
    if entry is not None and entry not in names:
        raise PtxError(f"no entry {entry}; there are {', '.join(names) or 'none'}")
    if not names or (entry is None and len(names) > 1):
        raise PtxError(f"which entry? There are {', '.join(names) or 'none'}")
    match = entries[names.index(entry) if entry else 0]
    lines = text.split("\n")
    first = text.count("\n", 0, match.end())
    kernel = Kernel(
        name=match.group(1),
        threads=_threads(match.group(3)),
        parameters=_parameters(match.group(2) or ""),
        variables={},
        registers=Registers(),
    )
    module = _without_comments(text)[: match.start()]
    for statement in _module_statements(module):
        _declare_variable(kernel, statement, 0)
    _Body(kernel).read(lines, first)
    return kernel


def _without_comments(text: str) -> str:
    """The text with comments blanked, character for character."""
    return re.sub(
        r"//[^\n]*|/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group(0)), text, flags=re.S
    )


def _module_statements(text: str) -> list[str]:
    """Directives outside functions."""
    text = re.sub(r"(?m)^\s*\.(version|target|address_size|file|loc)\b.*$", "", text)
    depth, pieces, current = 0, [], []
    for part in re.split(r"([{};])", text):
        if part == "{" or part == "}":
            depth += 1 if part == "{" else -1
            current.append(part)
            if depth == 0 and part == "}" and ".func" in "".join(current)[:400]:
                current = []
            if depth == 0 and part == "}" and re.search(r"\.entry\b", "".join(current)):
                current = []
        elif part == ";" and depth == 0:
            pieces.append("".join(current).strip())
            current = []
        else:
            current.append(part)
    return pieces


def _threads(text: str) -> tuple[int, int, int] | None:
    match = re.search(r"\.reqntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", text)
    if match is None:
        return None
    x, y, z = (int(n or 1) for n in match.groups())
    return x, y, z


def _parameters(text: str) -> list[Parameter]:
    parameters, offset = [], 0
    for part in (p.strip() for p in text.split(",")):
        if not part:
            continue
        match = _PARAMETER.match(part)
        if match is None:
            raise PtxError(f"parameter not understood: {part}")
        align, type_, name, count = match.groups()
        element = max(WIDTHS[type_], 8) // 8
        size = element * (int(count) if count else 1)
        step = int(align) if align and count is not None else element
        offset = -(-offset // step) * step
        parameters.append(Parameter(name, type_, offset, size))
        offset += size
    return parameters


def _declare_variable(kernel: Kernel, statement: str, line: int) -> bool:
    match = _VARIABLE.match(statement.strip())
    if match is None:
        return False
    space, align, type_, name, dimensions, values = match.groups()
    if type_ not in WIDTHS:
        raise PtxError(f"line {line}: variables of type .{type_} are not emulated")
    element = max(WIDTHS[type_], 8) // 8
    count = 1
    for n in re.findall(r"\[(\d*)\]", dimensions):
        count *= int(n or 0)
    data = _initial(values, type_, element, name) if values else b""
    kernel.variables[name] = Variable(name, space, int(align or element), element * count, data)
    return True


def _initial(values: str, type_: str, element: int, name: str) -> bytes:
    numbers = [v.strip() for v in values.strip(" {}\n").replace("{", "").split(",") if v.strip()]
    data = b""
    for text in (n.strip(" {}") for n in numbers):
        try:
            value = int(text[2:], 16) if text[:2] in ("0f", "0F", "0d", "0D") else int(text, 0)
        except ValueError:
            raise PtxError(f"the initial value {text} of {name} is not emulated") from None
        data += (value & ((1 << 8 * element) - 1)).to_bytes(element, "little")
    return data


class _Body:
    """Reads the lines of an entry's body."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.scopes: list[dict[str, str]] = [{}]
        self.num_scopes = 0
        self.source = ""

    def read(self, lines: list[str], first: int) -> None:
        pending, start, in_comment = "", 0, False
        for number in range(first, len(lines)):
            raw = lines[number]
            if number == first:
                raw = raw[raw.rindex("{") :] if "{" in raw else raw
            code, _, comment = raw.partition("//")
            if "/*" in code or in_comment:
                code, in_comment = self._uncommented(code, in_comment)
            code = code.strip()
            if code.startswith((".loc ", ".loc\t", ".file ", ".file\t")):
                self.source = comment.strip() if code[1] == "l" else self.source
                continue
            if code.startswith(".section"):
                break
            while code:
                if not pending:
                    if code[0] in "{}":
                        if self._brace(code[0]):
                            return
                        code = code[1:].strip()
                        continue
                    label = _LABEL.match(code)
                    if label and not code.startswith("."):
                        self.kernel.labels[label.group(1)] = len(self.kernel.statements)
                        code = code[label.end() :].strip()
                        continue
                    start = number + 1
                statement, semicolon, code = code.partition(";")
                pending = f"{pending} {statement}".strip()
                code = code.strip()
                if semicolon:
                    self._statement(pending, start)
                    pending = ""
        raise PtxError(f"the body of {self.kernel.name} does not end")

    @staticmethod
    def _uncommented(code: str, in_comment: bool) -> tuple[str, bool]:
        kept = ""
        while code:
            if in_comment:
                _, end, code = code.partition("*/")
                in_comment = not end
            else:
                before, begin, code = code.partition("/*")
                kept += before
                in_comment = bool(begin)
        return kept, in_comment

    def _brace(self, brace: str) -> bool:
        """Returns: whether the body has ended."""
        if brace == "{":
            self.scopes.append({})
            self.num_scopes += 1
        else:
            self.scopes.pop()
        return len(self.scopes) == 1

    def _statement(self, text: str, line: int) -> None:
        if not text:
            return
        if text.startswith("."):
            self._directive(text, line)
            return
        guard, is_negated, rest = "", False, text
        if match := _GUARD.match(text):
            guard, is_negated = self._renamed(match.group(2)), match.group(1) == "!"
            rest = text[match.end() :]
        head, *rest = rest.split(None, 1)
        operands = tuple(o.strip() for o in _OPERAND.findall(self._renamed(*rest) if rest else ""))
        self.kernel.statements.append(
            Statement(line, text, guard, is_negated, head, operands, self.source)
        )

    def _renamed(self, text: str) -> str:
        renames: dict[str, str] = {}
        for scope in self.scopes:
            renames |= scope
        if not renames:
            return text
        return _NAME.sub(lambda m: renames.get(m.group(0), m.group(0)), text)

    def _directive(self, text: str, line: int) -> None:
        if match := re.match(r"\.reg\s*\.(\w+)\s+(.*)$", text, re.S):
            # the outermost scope's names stay as they are
            is_inner = len(self.scopes) > 2
            suffix = f"_scope{self.num_scopes}" if is_inner else ""
            self.kernel.registers.declare(
                match.group(1), match.group(2), line, self.scopes[-1], suffix
            )
        elif not _declare_variable(self.kernel, text, line) and not text.startswith(".pragma"):
            raise PtxError(f"line {line}: directive not understood: {text}")
