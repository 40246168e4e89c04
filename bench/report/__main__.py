"""Write the report.

python -m bench.report                       # bench/REPORT.md, bench/plots/, README's blocks
python -m bench.report --check               # write nothing; exit status 1 if a case regressed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from bench.report import compile_table, gpu_status, modelled, readme, regressions
from bench.report.history import load
from bench.report.page import PLOTS, Inputs, draw, page
from bench.suite.cases import all_cases
from bench.suite.record import RESULTS
from seqformer.command import Command, exit_with

FOLDER = Path(__file__).parents[1]
README = FOLDER.parent / "README.md"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make bench/REPORT.md and its plots from the records, and the README's measured table."""

    check: bool = False
    """Write nothing; name regressions and exit with status 1 if there are any."""
    results: Path = RESULTS
    """Folder of the records."""
    out: Path = FOLDER / "REPORT.md"
    """Page to write; its plots go to a folder `plots` beside it."""


def main(options: Options) -> int:
    records = load(options.results)
    if not records.records:
        raise ValueError(f"--results {options.results} holds no records; nothing is written")
    named = [x for x in regressions.compared(records) if x.is_named]
    for x in named:
        print(f"slower or larger: {x.sentence()}".replace("**", ""))
    if options.check:
        print(f"{len(named)} regressions")
        return 1 if named else 0
    is_default = options.out == FOLDER / "REPORT.md"
    if is_default:
        modelled.write(modelled.declared(all_cases("gpu")))
    made_of = Inputs(
        records=records,
        declared=modelled.read(),
        compiled=compile_table.rows(),
    )
    options.out.write_text(page(made_of), encoding="utf-8")
    drawn = draw(records, options.out.parent / PLOTS)
    print(f"{options.out} and {len(drawn)} plots from {len(records.records)} records")
    if is_default:
        for stale in set((FOLDER / PLOTS).glob("*.svg")) - set(drawn):
            stale.unlink()
        _write_readme(readme.headlines(records), gpu_status.paragraph(records))
    return 0


def _write_readme(table: str, gpus: str) -> None:
    text = README.read_text(encoding="utf-8")
    for marker in (readme.BEGIN, readme.GPU_BEGIN):
        if marker not in text:
            print(f"README.md has no {marker}: nothing is written there")
            return
    README.write_text(readme.rewritten(text, table, gpus), encoding="utf-8")


def command(arguments: Sequence[str] | None = None) -> int:
    """The command line; a damaged record is one sentence and status 1."""
    options = tyro.cli(Options, args=arguments)
    return Command("bench.report", error_code=1).run(lambda: main(options))


if __name__ == "__main__":
    exit_with("bench.report", command)
