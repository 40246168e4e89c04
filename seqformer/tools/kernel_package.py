"""The operators as a kernel of the Hugging Face hub, in a folder that its loader takes.

A kernel is loaded from wherever it lies, several versions in one process. So the copy imports
nothing by an absolute name but torch and triton, and its operators are registered under a name made
of its content: it lives beside an installed SeqFormer. All is Python and C that is compiled at
first use, so the variants for all backends have the same files ("torch-noarch").
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path

BACKENDS = ("cpu", "cuda", "rocm")
LAYERS = "layers.py"
_LEFT_OUT = ("__init__.py", "registry_package.py", "two_names.py", "py.typed")
_OPERATORS = "seqformer_kernels"
"""The namespace of our operators in torch.ops."""
_NAME = re.compile(r"[a-z][-a-z0-9]*[a-z0-9]")
_PUBLIC = {
    "backend": ("current_backend", "explain", "use_backend"),
    "deformable_attention": ("ms_deform_attn", "ms_deform_attn_fused"),
    "frame_masks": ("encode_masks", "threshold_masks"),
    "mask_head": ("MaskHeadConfig", "dynamic_mask_head"),
    "mask_loss": ("dynamic_mask_loss",),
}


def write_package(folder: Path, name: str, version: int) -> list[str]:
    """Write build.toml, a card, the sources and one built variant per backend.

    Args:
        folder: is made; it may exist if it is empty.
        name: of the kernel, as the hub allows it.
        version: from 1.

    Returns: the names of the variants.
    Raises: ValueError for a name or version that the hub refuses, FileExistsError if the folder
        holds anything.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"--name {name!r} must be lower-case letters, digits and dashes")
    if version < 1:
        raise ValueError(f"--version must be at least 1, got {version}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty; give another folder")
    files = package_files()
    python_name = name.replace("-", "_")
    content = hashlib.sha256("\0".join(f"{p}\0{t}" for p, t in files.items()).encode())
    unique = f"_{python_name}_{content.hexdigest()[:10]}"
    files = {path: text.replace(_OPERATORS, unique) for path, text in files.items()}
    _write(folder, {"build.toml": _build(name, version), "README.md": _card(name, version)})
    _write(folder / "torch-ext" / python_name, files)
    variants = [f"torch-{backend}" for backend in BACKENDS]
    compatible = f"{python_name}/__init__.py"
    for backend, variant in zip(BACKENDS, variants, strict=True):
        own = files | {compatible: _COMPATIBLE}
        metadata = {
            "id": f"{unique}_{backend}",
            "name": name,
            "version": version,
            "license": "Apache-2.0",
            "python-depends": [],
            "backend": {"type": backend},
            "digest": _digest(own),
        }
        own["metadata.json"] = json.dumps(metadata, indent=2) + "\n"
        _write(folder / "build" / variant, own)
    return variants


def package_files() -> dict[str, str]:
    """The files of the kernel by their paths: our operators, the layer, an `__init__`.

    Imports of the layer point one folder further up than in our own tree.
    """
    spec = find_spec("seqformer.kernels")
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).parent
    paths = [path for suffix in ("py", "c", "h") for path in source.rglob(f"*.{suffix}")]
    files = {}
    for path in sorted(paths):
        place = path.relative_to(source)
        if place.as_posix() not in _LEFT_OUT and place.parts[0] != "integrations":
            files[place.as_posix()] = path.read_text(encoding="utf-8")
    layers = (source / "integrations" / LAYERS).read_text(encoding="utf-8")
    files[LAYERS] = layers.replace("from ..", "from .")
    files["__init__.py"] = _init()
    return files


def _init() -> str:
    lines = ['"""Multi-scale deformable attention and the dynamic mask head of SeqFormer."""\n']
    lines.append("from . import layers")
    lines += [f"from .{module} import {', '.join(names)}" for module, names in _PUBLIC.items()]
    names = sorted(["layers", *(name for names in _PUBLIC.values() for name in names)])
    listed = "".join(f'    "{name}",\n' for name in names)
    return "\n".join(lines) + f"\n\n__all__ = [\n{listed}]\n"


_COMPATIBLE = '''"""For versions of `kernels` that look for a folder of the kernel's name."""

import importlib.util
import sys
from pathlib import Path

_origin = Path(__file__).parents[1] / "__init__.py"
_spec = importlib.util.spec_from_file_location(f"{__name__}_package", _origin)
_package = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _package
_spec.loader.exec_module(_package)
__all__ = _package.__all__
globals().update({name: getattr(_package, name) for name in __all__})
'''


def _build(name: str, version: int) -> str:
    backends = ", ".join(f'"{backend}"' for backend in BACKENDS)
    return (
        f'[general]\nedition = 5\nname = "{name}"\nversion = {version}\nlicense = "Apache-2.0"\n'
        f"backends = [{backends}]\n\n[torch-noarch]\n"
    )


def _card(name: str, version: int) -> str:
    return f"""---
license: apache-2.0
tags:
- kernels
---

# {name}

Multi-scale deformable attention and the dynamic mask head, in Triton for a GPU and in C or plain
PyTorch for a CPU. Nothing is built ahead.

```python
from pathlib import Path
from kernels import LocalLayerRepository, Mode, kernelize, use_kernel_mapping

layer = LocalLayerRepository(Path("{name}"), layer_name="MultiScaleDeformableAttention")
with use_kernel_mapping({{"MultiScaleDeformableAttention": {{"cpu": layer, "cuda": layer}}}}):
    kernelize(model, mode=Mode.TRAINING | Mode.TORCH_COMPILE)
```

Version {version}. Written by `seqformer kernels package`.
"""


def _digest(files: dict[str, str]) -> dict[str, object]:
    """Of every file, as the hub's tools check it."""
    hashes = {
        path: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for path, text in sorted(files.items())
    }
    return {"algorithm": "sha256", "files": hashes}


def _write(folder: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
