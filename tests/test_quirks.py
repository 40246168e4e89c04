"""Every `parity:` mark of the code has a row in docs/quirks.md, and every row a mark and a test."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(
    r"^\| `+ ?(.+?) \.\.\. ?`+ \|.*\| `(tests/[\w/]+\.py)::(test_\w+)` \|$", re.MULTILINE
)


def marks() -> list[str]:
    """The text after each mark, on one line and without the comment signs."""
    found = []
    for folder in ("seqformer", "kernels"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".c", ".h"):
                for after in path.read_text().split("parity:")[1:]:
                    found.append(" ".join(re.sub(r"\n\s*#?", " ", after[:300]).split()))
    return found


def rows() -> list[tuple[str, str, str]]:
    return ROW.findall((ROOT / "docs" / "quirks.md").read_text())


def test_every_mark_has_one_row_and_every_row_one_mark():
    listed = [words for words, _, _ in rows()]
    assert len(listed) > 20
    for mark in marks():
        assert sum(mark.startswith(words) for words in listed) == 1, mark[:80]
    for words in listed:
        assert sum(mark.startswith(words) for mark in marks()) == 1, words


def test_every_row_names_a_test():
    for words, file, name in rows():
        assert f"def {name}(" in (ROOT / file).read_text(), words
