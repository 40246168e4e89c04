"""A kernel's text is the same whatever its variables are called, and differs where code does."""

from __future__ import annotations

import ast

from bench.offline.kernel_source import numbered

KERNEL = '''
def kernel(x, count, BLOCK: tl.constexpr):
    """Half of x."""
    i = tl.arange(0, BLOCK)  # lanes
    y = tl.load(x + i, mask=i < count, other=0.0)
    for _ in range(count):
        y, i = y * SHARE, i + BLOCK
    tl.store(x + i, y, mask=i < count)
'''


def text(source: str) -> str:
    return ast.unparse(numbered(source))


def test_names_comments_and_docstrings_do_not_count():
    renamed = KERNEL.replace("BLOCK", "LANES").replace("y", "value").replace("count", "n")
    renamed = renamed.replace("Half of x", "x, halved").replace("# lanes", "# [LANES]")
    assert renamed != KERNEL and text(renamed) == text(KERNEL)


def test_code_counts():
    for one, other in (
        ("x + i, y", "y + i, x"),
        ("mask=i < count, ", ""),
        ("i + BLOCK", "i + count"),
        ("SHARE", "OTHER"),
        ("x, count, BLOCK", "x, BLOCK, count"),
        ("tl.arange", "tl.zeros"),
    ):
        changed = KERNEL.replace(one, other)
        assert changed != KERNEL and text(changed) != text(KERNEL), (one, other)
