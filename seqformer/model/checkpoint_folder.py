"""Checkpoint folders of a run, read without executing anything that they say.

`torch.distributed.checkpoint` describes a folder in `.metadata`, a pickle, and unpickles whatever
that calls an object instead of a tensor. Both would run the code of whoever made the folder. Here
the pickle is read with stand-ins in the place of all classes, of which only those of a description
of tensors are known; what it says is checked against the files; and tensors alone are read.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, load
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner
from torch.futures import Future

from seqformer.safe_files import check_regular, open_regular, read_regular

METADATA_NAME = ".metadata"
MAX_METADATA = 2**28
"""Bytes of a description; a large model's is a megabyte."""
_DATA_NAME = re.compile(r"[\w.-]+\.distcp")
_CHECKPOINT = "torch.distributed.checkpoint.metadata"
_KNOWN = {
    (_CHECKPOINT, "Metadata"),
    (_CHECKPOINT, "MetadataIndex"),
    (_CHECKPOINT, "TensorStorageMetadata"),
    (_CHECKPOINT, "BytesStorageMetadata"),
    (_CHECKPOINT, "ChunkStorageMetadata"),
    (_CHECKPOINT, "TensorProperties"),
    (_CHECKPOINT, "_MEM_FORMAT_ENCODING"),
    (_CHECKPOINT, "StorageMeta"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
}
"""What a description may name; nothing of it is ever imported or called."""


class _StandIn:
    """What a pickle made of a class that it named: the arguments and the state, nothing else."""

    kind = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> _StandIn:
        made = object.__new__(cls)
        made.arguments, made.state = arguments, {}
        return made

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:  # keys of the dict of places
        return id(self)


_OPCODES = frozenset(
    (
        *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
        *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
        *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
        *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE),
        *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
        *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
        *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
        *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
        *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.NEWOBJ, pickle.BUILD),
    )
)
"""What a description is written with. None of them makes more than it has read: others take a
number of bytes on trust."""


class _Reader(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Knows the names of a description, and gives stand-ins that last as long as this reading.

    It is the one in Python: that in C makes room for as many objects as a file says it has.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: act for code, act in pickle._Unpickler.dispatch.items() if bytes([code]) in _OPCODES
    }

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._stand_ins: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        dtype = getattr(torch, name, None) if module == "torch" and name.isidentifier() else None
        if isinstance(dtype, torch.dtype):
            return dtype
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._stand_ins.setdefault(name, type(name, (_StandIn,), {"kind": name}))


@dataclass(frozen=True)
class FolderContent:
    """What a checkpoint folder holds.

    Attributes:
        sizes: key ("model.detr.level_embed") -> the tensor's shape.
        dtypes: likewise.
        metadata: the description in torch's own classes, made here from checked numbers.
    """

    sizes: Mapping[str, torch.Size]
    dtypes: Mapping[str, torch.dtype]
    metadata: Metadata


def read_description(folder: Path) -> FolderContent:
    """Read and check a folder's `.metadata`.

    Raises: ValueError naming the folder: it is damaged, names other classes than those of a
        description, holds objects beside tensors, or does not fit its files; FileNotFoundError.
    """
    path = folder / METADATA_NAME
    if check_regular(path).st_size > MAX_METADATA:
        raise ValueError(f"{path} has more than {MAX_METADATA} bytes; it is no description")
    try:
        return _checked(folder, _unpickled(read_regular(path)))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint {folder}: {path.name} is damaged or holds more than a description of "
            f"tensors, so it was not executed ({error})"
        ) from None
    # What a damaged or hostile pickle can raise besides.
    except (
        *(ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError),
        *(RecursionError, TypeError, UnicodeError, OverflowError, struct.error),
    ) as error:
        raise ValueError(
            f"checkpoint {folder}: {path.name} is damaged ({type(error).__name__}); copy it again"
        ) from None


def _unpickled(data: bytes) -> Any:
    try:
        return _Reader(io.BytesIO(data)).load()
    except ValueError as error:  # a protocol or a number that there is not
        raise pickle.UnpicklingError(str(error)) from None


def _checked(folder: Path, read: Any) -> FolderContent:
    """Torch's classes from stand-ins. Raises: UnpicklingError, ValueError."""
    top = _state(read, "Metadata")
    sizes_on_disk = {
        entry.name: entry.stat().st_size
        for entry in folder.iterdir()
        if _DATA_NAME.fullmatch(entry.name) and entry.is_file()
    }
    tensors: dict[str, TensorStorageMetadata] = {}
    for key, value in _dict(top.get("state_dict_metadata")).items():
        if not isinstance(key, str):
            raise pickle.UnpicklingError("a key is not a text")
        if isinstance(value, _StandIn) and value.kind == "BytesStorageMetadata":
            raise pickle.UnpicklingError(f"{key} is declared as an object, not as a tensor")
        tensors[key] = _tensor(key, value, sum(sizes_on_disk.values()))
    places: dict[MetadataIndex, _StorageInfo] = {}
    for index, info in _dict(top.get("storage_data")).items():
        of_index, of_info = _state(index, "MetadataIndex"), _state(info, "_StorageInfo")
        key, offset = of_index.get("fqn"), of_index.get("offset")
        name, start, length = (of_info.get(k) for k in ("relative_path", "offset", "length"))
        if not isinstance(key, str) or not isinstance(name, str) or key not in tensors:
            raise pickle.UnpicklingError("a place is of no tensor")
        if not _DATA_NAME.fullmatch(name) or name not in sizes_on_disk:
            raise ValueError(f"checkpoint {folder} lacks its file {name!r}; copy it again")
        start, length = _whole(start), _whole(length)
        if start + length > sizes_on_disk[name]:
            raise ValueError(f"{folder / name} is cut off; copy it again")
        if of_info.get("transform_descriptors"):
            raise pickle.UnpicklingError("its tensors are transformed")
        place = None if offset is None else _size(offset)
        hint = of_index.get("index")
        hint = hint if type(hint) is int else None
        places[MetadataIndex(key, place, hint)] = _StorageInfo(name, start, length)
    metadata = Metadata(
        state_dict_metadata=dict(tensors), storage_data=places, storage_meta=StorageMeta()
    )
    return FolderContent(
        {key: value.size for key, value in tensors.items()},
        {key: value.properties.dtype for key, value in tensors.items()},
        metadata,
    )


def _tensor(key: str, value: Any, bytes_on_disk: int) -> TensorStorageMetadata:
    state = _state(value, "TensorStorageMetadata")
    properties = state.get("properties")
    if not isinstance(properties, _StandIn) or properties.kind != "TensorProperties":
        raise pickle.UnpicklingError(f"{key} has no properties")
    dtype = properties.state[0] if isinstance(properties.state, tuple) else None
    if not isinstance(dtype, torch.dtype):
        raise pickle.UnpicklingError(f"{key} has no number format")
    size = _size(state.get("size"))
    if size.numel() * dtype.itemsize > bytes_on_disk:
        raise pickle.UnpicklingError(f"{key} is declared larger than the whole folder")
    chunks = []
    listed = state.get("chunks")
    for chunk in listed if isinstance(listed, list) else []:
        own = _state(chunk, "ChunkStorageMetadata")
        offsets, sizes = _size(own.get("offsets")), _size(own.get("sizes"))
        is_inside = len(offsets) == len(sizes) == len(size) and all(
            o + s <= whole for o, s, whole in zip(offsets, sizes, size, strict=True)
        )
        if not is_inside:
            raise pickle.UnpicklingError(f"{key} has a part outside of itself")
        chunks.append(ChunkStorageMetadata(offsets, sizes))
    return TensorStorageMetadata(TensorProperties(dtype=dtype), size, chunks)


def _state(value: Any, kind: str) -> dict[str, Any]:
    if not isinstance(value, _StandIn) or value.kind != kind:
        raise pickle.UnpicklingError(f"something else stands in the place of a {kind}")
    return _dict(value.state)


def _dict(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise pickle.UnpicklingError("something else stands in the place of a table")
    return value


def _size(value: Any) -> torch.Size:
    sides: Iterable[Any] = ()
    if isinstance(value, _StandIn) and value.kind == "Size":
        sides = value.arguments[0] if value.arguments else ()
    if not isinstance(sides, tuple | list) or not isinstance(value, _StandIn):
        raise pickle.UnpicklingError("something else stands in the place of a size")
    for side in sides:
        _whole(side)
    return torch.Size(sides)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise pickle.UnpicklingError("a size or place is no whole number")
    return value


def read_tensors(folder: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder whose names start with one of `prefixes`, by name.

    Raises: ValueError: a tensor cannot be read; else as `read_description`.
    """
    described = read_description(folder)
    state = {
        key: torch.empty(size, dtype=described.dtypes[key])
        for key, size in described.sizes.items()
        if key.startswith(prefixes)
    }
    try:
        load(state, storage_reader=TensorFolderReader(folder), no_dist=True)
    except CheckpointException as error:
        cause = inner_cause(error)
        raise ValueError(str(cause) or type(cause).__name__) from error
    return state


def inner_cause(error: BaseException) -> BaseException:
    """The first of the causes that torch.distributed.checkpoint collected, or `error` itself."""
    if isinstance(error, CheckpointException) and error.failures:
        return next(iter(error.failures.values()))[0]
    return error


class TensorFolderReader(FileSystemReader):
    """Reads the tensors of a checkpoint folder for `torch.distributed.checkpoint.load`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checked description. Raises: as `read_description`."""
        return read_description(self.folder).metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill the tensors of a plan. Raises: ValueError naming the file."""
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                raise ValueError(f"{item.storage_index.fqn} is to be read as an object")
            info = self.storage_data[item.storage_index]
            with open_regular(self.folder / info.relative_path) as file:
                file.seek(info.offset)
                data = io.BytesIO(file.read(info.length))
            target = planner.resolve_tensor(item).detach()
            tensor = _read_tensor(data, item.storage_index.fqn)
            for axis, (start, length) in enumerate(
                zip(item.storage_offsets, item.lengths, strict=True)
            ):
                tensor = tensor.narrow(axis, start, length)
            if target.size() != tensor.size():
                raise ValueError(f"{item.storage_index.fqn} has another shape than described")
            target.copy_(tensor)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def _read_tensor(data: io.BytesIO, key: str) -> Tensor:
    """The tensor that `torch.save` wrote. Raises: ValueError."""
    try:
        with zipfile.ZipFile(data) as archive:
            entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError(f"{key} is compressed, as torch never writes it")
        if sum(entry.file_size for entry in entries) > data.getbuffer().nbytes:
            raise ValueError(f"{key} lists more than it holds")
    except zipfile.BadZipFile:
        raise ValueError(f"{key} is damaged") from None
    data.seek(0)
    tensor = torch.load(data, map_location="cpu", weights_only=True)
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        raise ValueError(f"{key} is no usual tensor")
    return tensor
