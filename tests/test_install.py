"""Installing beside an unrelated registry package called `kernels`, in either order and both ways.

Each case is a fresh virtual environment that borrows this one's torch.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROBE = """
import sys
import kernels                               # the other package, from any folder but a checkout
assert kernels.THEIRS and not hasattr(kernels, "ms_deform_attn"), kernels
import seqformer
from seqformer._kernels import kernels as ours
assert callable(ours.ms_deform_attn) and callable(ours.dynamic_mask_head)
assert kernels.THEIRS and sys.modules["kernels"] is kernels
import seqformer.kernels
assert seqformer.kernels.use_backend is ours.use_backend   # one copy, one state
seqformer.build_model("resnet_mini", num_classes=2, hidden_dim=32, num_heads=4)
print("ok", seqformer.__file__)
"""


def python(env: Path, *arguments: str, cwd: Path) -> str:
    """Run the environment's python; its output, or an assertion with everything it said."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(env / "bin" / "python"), *arguments],
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_install(env: Path, *what: str, cwd: Path) -> None:
    """Install into an environment that has no pip of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(env / "bin" / "python"), "install", "-q",
         "--no-deps", "--no-index", "--no-build-isolation", *what],
        cwd=cwd, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def their_wheel(tmp_path_factory) -> Path:
    """A registry package that owns the top-level name `kernels`."""
    path = tmp_path_factory.mktemp("theirs") / "kernels-9.9-py3-none-any.whl"
    info = "kernels-9.9.dist-info"
    files = {
        "kernels/__init__.py": "from kernels.layer import kernelize\nTHEIRS = True\n",
        "kernels/layer.py": "def kernelize():\n    from kernels import THEIRS\n    return THEIRS\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: kernels\nVersion: 9.9\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in (files | {f"{info}/RECORD": record}).items():
            wheel.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def our_source(tmp_path_factory) -> Path:
    """A copy of the sources, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("ours") / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "seqformer", "kernels",
         "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, listed):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    return copy


@pytest.fixture(scope="module")
def our_wheel(our_source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index",
         "--no-build-isolation", "-w", str(folder), str(our_source)],
        check=True, capture_output=True,
    )  # fmt: skip
    return next(folder.glob("seqformer-*.whl"))


def test_the_source_archive_makes_the_same_wheel(our_source, our_wheel, tmp_path):
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=our_source, check=True, capture_output=True)
    (archive,) = tmp_path.glob("seqformer-*.tar.gz")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index",
         "--no-build-isolation", "-w", str(tmp_path), str(archive)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("seqformer-*.whl")
    names = [set(zipfile.ZipFile(path).namelist()) for path in (our_wheel, wheel)]
    assert names[0] == names[1]


def test_the_source_archive_is_complete(tmp_path):
    """All that is tracked, so that whoever unpacks it can test it and measure with it."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    copy = tmp_path / "checkout"
    for name in filter(lambda name: (ROOT / name).is_file(), tracked):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).symlink_to(ROOT / name)
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    (archive,) = tmp_path.glob("seqformer-*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    missing = {name for name in tracked if (ROOT / name).is_file()} - names
    assert not missing, sorted(missing)[:10]


def fresh_environment(folder: Path) -> Path:
    env = folder / "env"
    venv.create(env, with_pip=False, symlinks=True)
    own = next((env / "lib").glob("python3.*")) / "site-packages"
    # after the environment's own packages, so what is installed there wins
    (own / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return env


def test_wheel_contents(our_wheel):
    names = zipfile.ZipFile(our_wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"seqformer"}
    sources = (p for p in (ROOT / "kernels").rglob("*") if p.suffix in (".py", ".c", ".h"))
    assert {f"seqformer/{p.relative_to(ROOT).as_posix()}" for p in sources} <= set(names)
    scorer = (ROOT / "seqformer/evaluation/native").iterdir()
    assert {p.relative_to(ROOT).as_posix() for p in scorer} <= set(names)
    listed = {path.relative_to(ROOT).as_posix() for path in (ROOT / "seqformer").rglob("*.py")}
    page = {f"seqformer/report/page/{p.name}" for p in (ROOT / "seqformer/report/page").iterdir()}
    assert listed | page <= set(names) and len(page) > 5
    assert {"seqformer/py.typed", "seqformer/kernels/py.typed"} <= set(names)


@pytest.mark.parametrize(
    "kind,ours_first",
    [
        ("wheel", True),
        ("editable", False),
        pytest.param("wheel", False, marks=pytest.mark.slow),
        pytest.param("editable", True, marks=pytest.mark.slow),
    ],
)
def test_beside_the_other_kernels(kind, ours_first, our_wheel, our_source, their_wheel, tmp_path):
    env = fresh_environment(tmp_path)
    ours = [str(our_wheel)] if kind == "wheel" else ["-e", str(our_source)]
    order = [ours, [str(their_wheel)]] if ours_first else [[str(their_wheel)], ours]
    for what in order:
        pip_install(env, *what, cwd=tmp_path)
    assert python(env, "-c", PROBE, cwd=tmp_path).startswith("ok")
    command = [str(env / "bin" / "seqformer"), "kernels"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "ms_deform_attn" in done.stdout, done.stderr
    # From the checkout, `kernels` is ours, and the same copy that the model uses.
    probe = (
        "import kernels, seqformer; from seqformer._kernels import kernels as used; "
        "from seqformer import kernels as third; "
        "assert kernels.ms_deform_attn is used.ms_deform_attn is third.ms_deform_attn; "
        "assert kernels.use_backend is third.use_backend"
    )
    python(env, "-c", probe, cwd=our_source)
    reverse = (
        "import seqformer; from seqformer._kernels import kernels as used; import kernels; "
        "from kernels.deformable_attention import ms_deform_attn; "
        "assert ms_deform_attn is used.ms_deform_attn"
    )
    python(env, "-c", reverse, cwd=our_source)
    # There the folder answers for the other package, too, which libraries ask for its names.
    both = (
        "from kernels.layer import kernelize; from kernels import THEIRS, kernelize as same; "
        "import kernels, seqformer.kernels; assert kernelize is same and kernelize() and THEIRS; "
        "assert kernels is seqformer.kernels and callable(kernels.ms_deform_attn); "
        "assert not hasattr(kernels, 'nobody')"
    )
    for first in ("", "import seqformer.kernels; "):
        python(env, "-c", first + both, cwd=our_source)
    from_elsewhere = "import seqformer.kernels as k; assert not hasattr(k, 'THEIRS'), k.__path__"
    python(env, "-c", from_elsewhere, cwd=tmp_path)
