"""The documents: pictures are as drawn, links lead somewhere, and named paths and options exist."""

import re
import runpy
from pathlib import Path

import pytest

from seqformer.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "bench" / "REPORT.md"])


def test_pictures_are_what_the_program_draws():
    program = runpy.run_path(str(ROOT / "docs" / "pictures.py"))
    for name, picture in program["PICTURES"].items():
        drawn = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert drawn == program["svg"](picture), f"run python docs/pictures.py ({name})"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    for words in re.findall(r"(?:`|^|-m )seqformer ((?:data )?[a-z][a-z-]+)", text, re.MULTILINE):
        assert words in COMMANDS or f"{words} " in "data ", words
    if page.name != "CHANGELOG.md":
        assert not re.search(r"python -m seqformer\.", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:seqformer|kernels|bench|tests|docs)/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path
