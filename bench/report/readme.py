"""The README's measured block: rendered from `bench.readme_figures`, put between its markers."""

from __future__ import annotations

from collections.abc import Sequence

from bench.readme_figures import FIGURES, Figure
from bench.report import formatting as f
from bench.report.records import Records

BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"


def block(records: Records, figures: Sequence[Figure] = FIGURES) -> str:
    """The table of all rows that the records answer."""
    rows = [row for figure in figures if (row := figure.row(records)) is not None]
    return f.table(["claim", "command", "result"], rows, numbers_from=3)


def section(records: Records, figures: Sequence[Figure] = FIGURES) -> str:
    """The same, and the rows that nobody has measured."""
    missing = [figure.claim for figure in figures if figure.row(records) is None]
    text = block(records, figures)
    if missing:
        text += "\n\nNot measured yet, and so not in the README: " + "; ".join(missing) + "."
    return text


def rewritten(readme: str, table: str) -> str:
    """The README's text with the table between its markers.

    Raises: ValueError: the markers are not there, once each and in order.
    """
    if (
        readme.count(BEGIN) != 1
        or readme.count(END) != 1
        or readme.index(BEGIN) > readme.index(END)
    ):
        raise ValueError(
            f"README.md needs one line {BEGIN} and after it one line {END}; the measured table is "
            "written between them"
        )
    head, tail = readme.split(BEGIN)[0], readme.split(END)[1]
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"
