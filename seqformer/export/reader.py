"""An exported file as a function on tensors. Nothing in a file is executed, but for packages of
machine code where the caller asks for it: a .pt2 is checked to be a plain graph before torch reads
it, and ONNX has no other operators than its runtime's."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model.weight_files import first_line
from ..safe_files import read_regular
from . import native
from .description import NAME, Description
from .graph import INPUTS, OUTPUTS
from .program_check import check_program

SUFFIXES = (".pt2", ".onnx")
Run = Callable[[Tensor, Tensor], Sequence[Tensor]]
RUNTIME_REMEDY = "running an .onnx file needs onnxruntime; pip install 'seqformer[export]'"


def is_exported(path: str | Path) -> bool:
    """Whether a file is one of these by its name."""
    return Path(path).suffix.lower() in SUFFIXES


def open_exported(
    path: str | Path, device: torch.device, run_native_code: bool = False
) -> tuple[Run, Description]:
    """Read an exported file.

    Args:
        path: .pt2 or .onnx.
        device: where it runs; ONNX on the CPU only, machine code where it was made for.
        run_native_code: read packages of machine code too (format "aoti"), which runs as it is
            loaded.

    Returns: a function from (images, state) to `OUTPUTS`, see `ClipGraph.forward`; and what the
        file says of itself.
    Raises: FileNotFoundError; ValueError naming the file when it is damaged or no exported
        SeqFormer, when onnxruntime is missing, for ONNX or machine code on another device, or for
        machine code without `run_native_code`.
    """
    path = Path(path)
    if path.suffix.lower() == ".pt2":
        return _open_program(path, device, run_native_code)
    if path.suffix.lower() == ".onnx":
        return _open_onnx(path, device)
    raise ValueError(f"{path} should end in one of {', '.join(SUFFIXES)}")


def _open_program(
    path: Path, device: torch.device, run_native_code: bool
) -> tuple[Run, Description]:
    content = read_regular(path, "exported file")
    try:
        # The same reader, on the same bytes, as torch.export.load.
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        names = list(reader.get_all_records())
        records = {
            name: b""
            if name.rpartition("/")[2].startswith(("weight_", "tensor_"))
            else reader.get_record(name)
            for name in names
        }
    except RuntimeError as error:
        raise ValueError(f"{path} is damaged or no .pt2 file ({first_line(error)})") from None
    is_native = native.is_package(names)
    if not is_native:
        check_program(records, path)
    elif not run_native_code:
        raise ValueError(
            f"{path} holds machine code, which would run with your rights; it is not read. If you "
            "made it, or trust who did: Predictor.from_exported(path, run_native_code=True)"
        )
    elif (made_for := native.device_of(records)) != device.type:
        raise ValueError(
            f"{path} is compiled for {made_for!r:.20}, not {device.type!r}; give that device, or a "
            "file of format pt2"
        )
    if f"extra/{NAME}" not in records:
        raise ValueError(f"{path} is no exported SeqFormer: it has no {NAME}")
    description = Description.from_json(records[f"extra/{NAME}"].decode(errors="replace"), path)
    try:
        if is_native:
            return native.loaded(content, device), description
        program = torch.export.load(io.BytesIO(content))
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(device))
        module: Any = program.module()
    except Exception as error:  # torch raises what it likes for a damaged graph
        raise ValueError(
            f"{path} is damaged or of another version of torch than {torch.__version__} "
            f"({first_line(error)}); export it again"
        ) from None
    return module, description


def _open_onnx(path: Path, device: torch.device) -> tuple[Run, Description]:
    if device.type != "cpu":
        raise ValueError(f"{path} runs on the CPU here; use --device cpu, or a .pt2 file on a GPU")
    content = read_regular(path, "exported file")
    session = _OnnxSession(content, path)
    return session, Description.from_json(session.metadata.get(NAME, ""), path)


class _OnnxSession:
    """onnxruntime with as many threads as torch has when it is called."""

    def __init__(self, content: bytes, path: Path) -> None:
        self._content, self._path = content, path
        self._threads = 0
        self._session: Any = None
        self.metadata: dict[str, str] = self._open().get_modelmeta().custom_metadata_map

    def _open(self) -> Any:
        if self._threads == torch.get_num_threads():
            return self._session
        try:
            onnxruntime: Any = import_module("onnxruntime")
        except ImportError:
            raise ValueError(f"{self._path}: {RUNTIME_REMEDY}") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(
                self._content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common class
            if b"MultiscaleDeformableAttnPlugin_TRT" in self._content:
                problem = "has nodes of a TensorRT plugin, which only TensorRT runs; use --format"
                raise ValueError(f"{self._path} {problem} onnx") from None
            raise ValueError(
                f"{self._path} is damaged or no ONNX file that onnxruntime reads "
                f"({first_line(error)})"
            ) from None
        self._threads = torch.get_num_threads()
        return self._session

    def __call__(self, images: Tensor, state: Tensor) -> list[Tensor]:
        inputs = dict(zip(INPUTS, (images.numpy(), state.numpy()), strict=True))
        results: list[np.ndarray] = self._open().run(list(OUTPUTS), inputs)
        return [torch.from_numpy(result) for result in results]
