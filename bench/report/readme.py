"""The README's blocks that come from records, each put between its markers: the measured table
(`bench.report.readme_figures`) and the paragraph about GPUs (`gpu_status`)."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import formatting as f
from bench.report.history import Records
from bench.report.readme_figures import FIGURES, Figure

BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
GPU_BEGIN, GPU_END = "<!-- gpu:begin -->", "<!-- gpu:end -->"


def block(records: Records, figures: Sequence[Figure] = FIGURES) -> str:
    """The table of all rows that the records answer."""
    rows = [row for figure in figures if (row := figure.row(records)) is not None]
    return f.table(["claim", "command", "result"], rows, numbers_from=3)


def headlines(records: Records, figures: Sequence[Figure] = FIGURES) -> str:
    """The rows of the README."""
    return block(records, [figure for figure in figures if figure.is_headline])


def section(records: Records, figures: Sequence[Figure] = FIGURES) -> str:
    """All rows, and those that nobody has measured."""
    missing = [figure.claim for figure in figures if figure.row(records) is None]
    text = block(records, figures)
    if missing:
        text += "\n\nNot measured yet: " + "; ".join(missing) + "."
    return text


def rewritten(readme: str, table: str, gpus: str | None = None) -> str:
    """The README's text with the table between its markers, and with what is said about GPUs.

    Raises: ValueError: the markers are not there, once each and in order.
    """
    text = _between(readme, BEGIN, END, table, "measured table")
    if gpus is None:
        return text
    return _between(text, GPU_BEGIN, GPU_END, gpus, "paragraph about GPUs")


def _between(readme: str, begin: str, end: str, content: str, what: str) -> str:
    if (
        readme.count(begin) != 1
        or readme.count(end) != 1
        or readme.index(begin) > readme.index(end)
    ):
        raise ValueError(
            f"README.md needs one line {begin} and after it one line {end}; the {what} is written "
            "between them"
        )
    head, tail = readme.split(begin)[0], readme.split(end)[1]
    return f"{head}{begin}\n\n{content}\n\n{end}{tail}"
