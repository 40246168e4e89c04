"""What a kernel computes, as a text: equal texts compile to equal code.

Comments, docstrings, names of arguments and of local variables, and the place of a function do not
count, unlike in Triton's own key. So a record stays true when they change.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from types import ModuleType
from typing import Any


@lru_cache
def source_of(kernel: Any) -> str:
    """A kernel's code, that of all functions it calls, and the values of the constants that they
    read."""
    from triton.runtime.jit import JITFunction

    parts: dict[str, str] = {}
    waiting = [kernel]
    while waiting:
        function = waiting.pop()
        tree = numbered(function.src)
        parts[function.fn.__name__] = ast.unparse(tree)
        for name in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}:
            value = function.fn.__globals__.get(name)
            if isinstance(value, JITFunction):
                if value.fn.__name__ not in parts:
                    waiting.append(value)
            elif value is not None and not isinstance(value, ModuleType):
                parts[name] = repr(value)
    return "\n".join(f"{name}: {parts[name]}" for name in sorted(parts))


def numbered(source: str) -> ast.Module:
    """The code of a function without its docstring; arguments and local variables are named by
    numbers, in the order in which they appear."""
    tree = ast.parse(source)
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    if ast.get_docstring(function) is not None:
        del function.body[0]
    names = [node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    stored = [
        (node.lineno, node.col_offset, node.id)
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    names += [name for *_, name in sorted(stored)]
    numbers = {name: f"_{number}" for number, name in enumerate(dict.fromkeys(names))}
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            node.arg = numbers[node.arg]
        elif isinstance(node, ast.Name):
            node.id = numbers.get(node.id, node.id)
    return tree


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The code of a module without what its functions and classes say of themselves."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [x for x in body if not _is_text(x)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
