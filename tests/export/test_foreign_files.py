"""Files that are damaged, foreign or hostile: one sentence, and nothing of them runs."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from seqformer.export.program_check import check_program
from seqformer.inference.predictor import Predictor
from tests.export.files import exported


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def changed(path: Path, target: Path, records: dict[str, bytes]) -> Path:
    """A copy with some records replaced or added, readable to torch."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    top = next(iter(contents)).partition("/")[0]
    contents |= {f"{top}/{name}": content for name, content in records.items()}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return target


def program_json() -> dict:
    with zipfile.ZipFile(exported("pt2")) as archive:
        name = next(n for n in archive.namelist() if n.endswith("models/model.json"))
        return json.loads(archive.read(name))


def first_size(content) -> dict:
    """A table that holds a size as text."""
    waiting = [content]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            if "expr_str" in entry:
                return entry
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry
    raise AssertionError("the program has no sizes")


def hostile(kind: str, trace: Path) -> dict[str, bytes]:
    pickled = io.BytesIO()
    torch.save(Evil(trace), pickled)
    code = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    program = program_json()
    if kind == "examples":
        return {"data/sample_inputs/model.pt": pickled.getvalue()}
    if kind == "weights":
        entry = {"path_name": "weight_0", "is_param": True, "use_pickle": True, "tensor_meta": None}
        table = json.dumps({"config": {"model.level_embed": entry}}).encode()
        return {
            "data/weights/model_weights_config.json": table,
            "data/weights/weight_0": pickled.getvalue(),
        }
    if kind == "object":
        entry = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }
        return {
            "data/constants/model_constants_config.json": json.dumps(
                {"config": {"x": entry}}
            ).encode(),
            "data/constants/opaque_obj_0": pickle.dumps(Evil(trace)),
        }
    if kind == "library":
        return {"data/aotinductor/model/model.so": b"\x7fELF"}
    if kind == "guards":
        program["guards_code"] = [code]
    if kind == "size":
        first_size(program)["expr_str"] = code
    if kind == "function":
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.hub.load"
    if kind == "file operator":
        program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"
    return {"models/model.json": json.dumps(program).encode()}


KINDS = (
    *("examples", "weights", "object", "library", "guards", "size", "function", "file operator"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_hostile_program_runs(kind, tmp_path):
    trace = tmp_path / "it-ran"
    path = changed(exported("pt2"), tmp_path / "evil.pt2", hostile(kind, trace))
    with pytest.raises(ValueError, match=r"evil\.pt2 holds .* it is not read"):
        Predictor.from_exported(path, "cpu")
    assert not trace.exists()


def test_what_we_write_is_no_foreign_file():
    with zipfile.ZipFile(exported("pt2")) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    check_program(records, exported("pt2"))


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
@pytest.mark.parametrize("content", [b"", b"no graph at all", b"PK\x03\x04" + bytes(300)])
def test_damage_is_one_sentence(ending, content, tmp_path):
    if ending == "onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"damaged.{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.") as raised:
        Predictor.from_exported(path, "cpu")
    assert "\n" not in str(raised.value)


def test_half_a_file_is_one_sentence(tmp_path):
    path = tmp_path / "half.pt2"
    content = exported("pt2").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half\.pt2 is damaged"):
        Predictor.from_exported(path, "cpu")


def test_other_files_and_places(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt2 does not exist"):
        Predictor.from_exported(tmp_path / "none.pt2", "cpu")
    with pytest.raises(ValueError, match="should end in one of"):
        Predictor.from_exported(tmp_path / "weights.pth", "cpu")
    foreign = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    foreign._example_inputs, foreign._guards_code = None, []
    torch.export.save(foreign, tmp_path / "foreign.pt2")
    with pytest.raises(ValueError, match="no exported SeqFormer"):
        Predictor.from_exported(tmp_path / "foreign.pt2", "cpu")


def test_missing_runtime_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    path = tmp_path / "a.onnx"
    path.write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"needs onnxruntime; pip install"):
        Predictor.from_exported(path, "cpu")
