"""What the type checker is told: exceptions are modules that exist, and both packages are typed."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]


def test_every_exception_is_a_module():
    listed = [m for o in SETTINGS["mypy"]["overrides"] if "ignore_errors" in o for m in o["module"]]
    assert listed
    for module in listed:
        assert (
            list(ROOT.glob(module.replace(".", "/") + ".py"))
            or (ROOT / module.replace(".", "/") / "__init__.py").exists()
        ), f"{module} is no module any more: take it off the list in pyproject.toml"


def test_both_packages_say_that_they_are_typed():
    for name, folder in (("seqformer", "seqformer"), ("seqformer.kernels", "kernels")):
        assert (ROOT / folder / "py.typed").exists()
        assert "py.typed" in SETTINGS["setuptools"]["package-data"][name]
