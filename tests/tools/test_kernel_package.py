"""The folder for the kernel hub: its form, and that it runs with nothing of ours on the path."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from seqformer.cli.main import main

ROOT = Path(__file__).parents[2]
VARIANTS = ["torch-cpu", "torch-cuda", "torch-rocm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "kernel"
    assert main(["kernels", "package", str(path)]) == 0
    return path


def test_what_the_hub_reads(folder):
    build = tomllib.loads((folder / "build.toml").read_text())
    assert build == {
        "general": {
            "edition": 5,
            "name": "seqformer-kernels",
            "version": 1,
            "license": "Apache-2.0",
            "backends": ["cpu", "cuda", "rocm"],
        },
        "torch-noarch": {},
    }
    assert sorted(path.name for path in (folder / "build").iterdir()) == VARIANTS
    ids = set()
    for variant in VARIANTS:
        place = folder / "build" / variant
        metadata = json.loads((place / "metadata.json").read_text())
        assert metadata["name"] == "seqformer-kernels" and metadata["version"] == 1
        assert metadata["backend"] == {"type": variant.removeprefix("torch-")}
        assert metadata["python-depends"] == []
        assert metadata["id"].isidentifier()
        ids.add(metadata["id"])
        files = {p.relative_to(place).as_posix(): p for p in place.rglob("*") if p.is_file()}
        del files["metadata.json"]
        assert metadata["digest"]["files"] == {
            name: base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
            for name, path in files.items()
        }
    assert len(ids) == 3


def test_the_copy_is_whole_and_imports_nothing_of_ours_by_name(folder):
    variant = folder / "build" / "torch-cpu"
    for path in (ROOT / "kernels").rglob("*"):
        place = path.relative_to(ROOT / "kernels")
        left_out = place.parts[0] in ("integrations", "registry_package.py", "two_names.py")
        if path.suffix in (".py", ".c", ".h") and not left_out:
            assert (variant / place).exists(), place
    for path in variant.rglob("*.py"):
        text = path.read_text()
        assert "seqformer_kernels::" not in text.replace("_seqformer_kernels_", "")
        for node in ast.walk(ast.parse(text)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                # numpy comes with Triton's interpreter
                others = {"torch", "triton", "numpy"}
                assert top in sys.stdlib_module_names | others, (path, name)


def test_it_runs_beside_the_checkout_and_without_it(folder, tmp_path):
    """As the hub's loader imports it: from its path, under the id; each with its own operators."""
    code = f"""
import importlib.util, json, sys, torch
from pathlib import Path
variant = Path({str(folder)!r}, "build", "torch-cpu")
name = json.loads((variant / "metadata.json").read_text())["id"]
spec = importlib.util.spec_from_file_location(name, variant / "__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
assert "layers" in module.__all__ and all(hasattr(module, n) for n in module.__all__)
assert not any(n.split(".")[0] in ("kernels", "seqformer") for n in sys.modules)
layer = module.layers.MultiScaleDeformableAttention()
g = torch.Generator().manual_seed(0)
value = torch.randn(1, 6, 1, 4, generator=g).requires_grad_()
locations = torch.rand(1, 2, 1, 1, 3, 2, generator=g)
weights = torch.rand(1, 2, 1, 1, 3, generator=g)
output = layer(value, None, [(2, 3)], None, locations, weights, 64)
output.sum().backward()
sys.path.insert(0, {str(ROOT)!r})
import kernels
expected = kernels.ms_deform_attn_reference(value, [(2, 3)], locations, weights)
torch.testing.assert_close(output, expected)
assert hasattr(torch.ops.seqformer_kernels, "ms_deform_attn")
assert hasattr(getattr(torch.ops, name.removesuffix("_cpu")), "ms_deform_attn")
assert module.ms_deform_attn is not kernels.ms_deform_attn
sys.path[0] = str(variant)  # as older versions of the hub's package look for it
import seqformer_kernels
assert seqformer_kernels.__all__ == module.__all__
print("ok")
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "ok\n", done.stderr


def test_mistakes_are_a_sentence(folder, tmp_path, capsys):
    for arguments, text in (
        ([str(folder)], "exists and is not empty"),
        ([str(tmp_path / "a"), "--name", "A_b"], "lower-case letters, digits and dashes"),
        ([str(tmp_path / "a"), "--version", "0"], "at least 1, got 0"),
    ):
        assert main(["kernels", "package", *arguments]) == 2
        error = capsys.readouterr().err
        assert text in error and "Traceback" not in error
    assert not (tmp_path / "a").exists()
