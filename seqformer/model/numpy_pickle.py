"""Pickles of NumPy arrays, as detectron2 writes its weights (.pkl), read without executing them.

A pickle names functions and says with what to call them. Here the few names that arrays and numbers
need lead to functions of this file; every other name is refused, and nothing is ever imported.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import re
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ..safe_files import read_regular

SUFFIXES = (".pkl", ".pickle")
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file of torch.save begins that is no zip."""
_MAX_DEPTH = 8
_DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError),
    *(RecursionError, TypeError, ValueError, pickle.UnpicklingError, struct.error),
)


def is_numpy_pickle(path: Path, first: bytes) -> bool:
    """Whether a weights file is to be read here, by its name and its first bytes."""
    return path.suffix.lower() in SUFFIXES and not first.startswith((b"PK\3\4", _TORCH_MAGIC))


def read_numpy_pickle(path: Path) -> dict[Any, Any]:
    """The content of a pickle of dicts, lists, numbers, texts and NumPy arrays, these as tensors.

    Raises: FileNotFoundError; ValueError naming the file when it is damaged, names anything else,
        or its arrays are larger than its bytes.
    """
    data = read_regular(path, "weights file")
    try:
        content = _Reader(io.BytesIO(data)).load()
        plain = _Plain(len(data)).of(content)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds objects that are not weights, or is corrupt; it was not executed "
            f"({error})"
        ) from None
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is not a readable checkpoint, it may be cut off ({type(error).__name__}); "
            "download or copy it again"
        ) from None
    if not isinstance(plain, dict):
        raise ValueError(f"{path} holds a {type(plain).__name__}, not a state dict")
    return plain


class _Dtype:
    """A dtype of plain numbers, in the byte order of its state."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[fiu][1248]|b1", name):
            raise pickle.UnpicklingError(f"it has an array of {name!r:.40}")
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        _, order, *rest = state
        if order not in ("<", ">", "=", "|") or any(rest[:3]):
            raise pickle.UnpicklingError("it has an array of structures")
        self.order = order

    def numpy(self) -> np.dtype:
        return np.dtype(("" if self.name[1:] == "1" else self.order) + self.name)


class _Array:
    """An array: its bytes, and what is said of them."""

    values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.values = _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """A view of bytes, whose number is as the shape says."""
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("it has an array of objects")
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("it has an array of no shape")
    kind = dtype.numpy()
    if math.prod(shape) * kind.itemsize != len(data) or order not in ("C", "F"):
        raise pickle.UnpicklingError("it has an array of another size than it says")
    return np.frombuffer(data, kind).reshape(shape, order=order)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    made = _Array()
    made.values = _array(data, dtype, shape, order)
    return made


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, ()).item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it encodes something that is no array")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How old protocols write the bytes of an empty array."""
    return b""


class _Marker:
    """Stands for the class of arrays, which is named and not needed."""


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Marker,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): collections.OrderedDict,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}

_OPCODES = frozenset(
    (
        *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
        *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
        *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
        *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINBYTES, pickle.SHORT_BINBYTES),
        *(pickle.BINBYTES8, pickle.BYTEARRAY8),
        *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
        *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
        *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
        *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
        *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD),
    )
)


class _Reader(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """The unpickler in Python with fewer instructions: none makes more than it has read."""

    stack: list[Any]
    append: Any
    read: Any

    dispatch: ClassVar[dict[int, Any]] = {
        code: act for code, act in pickle._Unpickler.dispatch.items() if bytes([code]) in _OPCODES
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _KNOWN[module, name]

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Array | _Dtype):
            raise pickle.UnpicklingError("it gives a state to something that is no array")
        self.stack[-1].__setstate__(state)

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self) -> None:
        size = struct.unpack("<Q", self.read(8))[0]
        data = self.read(min(size, 1 << 62))
        if len(data) != size:
            raise EOFError
        self.append(data)

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


class _Plain:
    """Content with tensors in the place of arrays; no more of it than the file has bytes."""

    def __init__(self, num_bytes: int) -> None:
        self._left = self._values_left = num_bytes

    def of(self, value: Any, depth: int = 0) -> Any:
        self._values_left -= 1
        if depth > _MAX_DEPTH or self._values_left < 0:
            raise pickle.UnpicklingError("its tables are nested too deep")
        if isinstance(value, dict):
            return {self._key(k): self.of(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.of(v, depth + 1) for v in value)
        if isinstance(value, _Array):
            return self._tensor(value)
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        raise pickle.UnpicklingError(f"it has a {type(value).__name__.lstrip('_')}")

    def _key(self, key: Any) -> Any:
        if not isinstance(key, str | int):
            raise pickle.UnpicklingError("a key is no text")
        return key

    def _tensor(self, array: _Array) -> torch.Tensor:
        if array.values is None:
            raise pickle.UnpicklingError("it has an array without numbers")
        self._left -= array.values.nbytes
        if self._left < 0:
            raise pickle.UnpicklingError("its arrays lie on one another")
        kind = array.values.dtype.newbyteorder("=")
        if kind.kind == "u" and kind.itemsize > 1:
            kind = np.dtype(np.int64)
        return torch.from_numpy(np.array(array.values, kind, order="C"))
