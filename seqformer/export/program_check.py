"""Is a .pt2 file a plain graph? Asked before torch.export reads it.

torch.export.load unpickles weights and constants that say so, runs guards as Python code,
evaluates sizes written as text, loads shared libraries from the archive, and calls any function of
torch that a node names. A file of ours has nothing of the kind: its weights are raw numbers, its
nodes aten operators, its sizes arithmetic. What is anything else is refused here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_RECORDS = re.compile(
    r"models/model\.json|data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|data/sample_inputs/model\.pt|extra/seqformer\.json"
    r"|archive_format|archive_version|byteorder|version|\.data/\w+"
)
_TARGETS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_(max|min|not|float|int|sum)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
)
_NOT_TENSORS = re.compile(r"file|save|load|print|warn|format|raise|record_stream", re.IGNORECASE)
_TOKENS = re.compile(r"\s+|[-+(),=]|\d+|'?[su]\d+'?|[A-Za-z]+")
_WORDS = {
    *("Symbol", "Integer", "Add", "Mul", "Pow", "Min", "Max", "FloorDiv", "Mod", "PythonMod"),
    *("CleanDiv", "CeilDiv", "positive", "integer", "nonnegative", "True", "False"),
}
_TREE_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_FOREIGN_ARGUMENTS = ("as_graph", "as_custom_obj", "as_operator", "as_string", "as_strings")
_TEXT_ARGUMENTS = {
    "bilinear",
    "nearest",
    "zeros",
    "constant",
    "replicate",
    "floor",
    "trunc",
    "none",
}


def check_program(records: dict[str, bytes], path: Path) -> None:
    """Refuse what is no plain graph.

    Args:
        records: name -> content of all but weights and constants; theirs may be left empty.

    Raises: ValueError naming the file and what is in it.
    """
    for name in records:
        if not _RECORDS.fullmatch(name):
            raise _refusal(path, f"a part {name!r:.80}")
    if records.get("data/sample_inputs/model.pt"):
        raise _refusal(path, "a pickle of example inputs")
    for kind in ("weights", "constants"):
        table = _parsed(records, f"data/{kind}/model_{kind}_config.json", path)
        for entry in _dicts(table):
            if entry.get("use_pickle"):
                raise _refusal(path, f"pickled {kind}")
            name = entry.get("path_name", "weight_0")
            if not re.fullmatch(r"(weight|tensor)_\d+", str(name)):
                raise _refusal(path, f"{kind} under the name {name!r:.60}")
    program = _parsed(records, "models/model.json", path)
    if not isinstance(program, dict) or program.get("guards_code"):
        raise _refusal(path, "guards, which are Python code")
    for entry in _dicts(program):
        _check_entry(entry, path)


def _check_entry(entry: dict[str, Any], path: Path) -> None:
    target = entry.get("target")
    if isinstance(target, str) and (inputs := entry.get("inputs")) is not None:
        name = target.removeprefix("torch.ops.aten.")
        if not _TARGETS.fullmatch(target) or _NOT_TENSORS.search(name) or inputs is None:
            raise _refusal(path, f"a node {target!r:.80}")
    if entry.get("expr_str") is not None and not _is_arithmetic(entry["expr_str"]):
        raise _refusal(path, f"a size {entry['expr_str']!r:.80}")
    for name in _FOREIGN_ARGUMENTS:
        value = entry.get(name)
        texts = value if isinstance(value, list) else [value]
        is_word = name.startswith("as_string") and all(t in _TEXT_ARGUMENTS for t in texts)
        if name in entry and not is_word:
            raise _refusal(path, f"an argument {value!r:.80}")
    for name in ("in_spec", "out_spec"):
        if name in entry and not _is_plain_tree(entry[name]):
            raise _refusal(path, "a structure of inputs or outputs that is no tuple")
    if entry.get("treespec_namedtuple_fields"):
        raise _refusal(path, "named tuples")


def _is_arithmetic(text: Any) -> bool:
    if not isinstance(text, str) or len(text) > 100_000:
        return False
    position = 0
    while position < len(text):
        token = _TOKENS.match(text, position)
        if token is None or (token[0].isalpha() and token[0] not in _WORDS):
            return False
        position = token.end()
    return True


def _is_plain_tree(text: Any) -> bool:
    if text in (None, ""):
        return True
    try:
        entries = list(_dicts(json.loads(text)))
    except (TypeError, ValueError, RecursionError):
        return False
    return all(
        entry.get("type") in _TREE_TYPES and entry.get("context") in (None, "null", "[]")
        for entry in entries
    )


def _parsed(records: dict[str, bytes], name: str, path: Path) -> Any:
    try:
        return json.loads(records[name])
    except (KeyError, ValueError, RecursionError):
        raise ValueError(
            f"{path} is damaged or no .pt2 file of this version: {name} cannot be read; "
            "export it again"
        ) from None


def _dicts(content: Any) -> Iterator[dict[str, Any]]:
    waiting = [content]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            yield entry
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry


def _refusal(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} holds {what}, which no exported SeqFormer does; it is not read, since it could "
        "run code"
    )
