"""The doors of the project, each with sound input and what reads it; run in a process of its own.

    python -m tests.fuzz.doors FOLDER SEED FIRST LAST

tries the cases FIRST..LAST - 1 and prints the number of each before it begins, so that a case that
kills the process is known. Whatever is raised but ValueError and OSError is printed, and so is a
case that takes too long or has called a function of the marker.
"""

from __future__ import annotations

import faulthandler
import io
import json
import logging
import os
import pickle
import random
import resource
import shutil
import sys
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from seqformer.annotations.coco import load_coco_file
from seqformer.annotations.masks import parse_mask
from seqformer.annotations.packed import open_packed, save_packed
from seqformer.annotations.run_lengths import read_runs
from seqformer.annotations.ytvis import load_annotation_file, pack_annotations
from seqformer.config import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
)
from seqformer.data.frames import read_frame
from seqformer.data.stills import listed_stills
from seqformer.data.video_sources import open_video
from seqformer.distributed.context import distributed_context
from seqformer.evaluation import evaluate
from seqformer.evaluation.coco_metric import evaluate_coco
from seqformer.inference.results_file import load_results
from seqformer.model import (
    build_model_from_config,
    load_backbone_weights,
    load_checkpoint,
    model_from_checkpoint,
    save_safetensors,
    to_published,
)
from seqformer.structures import ClassMap
from seqformer.tools.annotation_json import read_content, read_sound_content
from seqformer.tools.check import check
from seqformer.tools.convert_coco_video import from_coco_video
from seqformer.tools.exchange.convert import convert_coco, convert_cvat, convert_labelme
from seqformer.tools.exchange.cvat_read import CvatOptions
from seqformer.tools.stats import measure
from seqformer.tools.track_builder import read_labels
from seqformer.trainer.checkpoint import Checkpoints, model_tensors
from seqformer.trainer.checkpoint_folders import read_run
from seqformer.visualization.drawing import tracks_from_entries
from seqformer.visualization.stills import as_video_entries
from seqformer.visualization.video_writer import write_video
from tests.doors.payloads import Call
from tests.fuzz.mutations import damage_bytes, damage_value, opcodes, to_text
from tests.fuzz.tool_files import cvat_file, labelme_file

SECONDS = 20.0
"""Of the processor, that one case may take."""
MEMORY = 8 * 2**30
"""Addresses that the process may use: a file of kilobytes must not ask for more."""
HEIGHT, WIDTH, T = 32, 64, 4
SMALL = ModelConfig(
    backbone="resnet_mini", num_classes=3, hidden_dim=32, num_heads=4, num_encoder_layers=1,
    num_decoder_layers=1, num_queries=3, ffn_dim=16, mask_dim=8,
)  # fmt: skip
EXPECTED = (ValueError, OSError)
Case = Callable[[random.Random, Path], None]


def _mask(x: int) -> dict[str, Any]:
    runs = [x * HEIGHT + 6]
    for _ in range(9):
        runs += [14, HEIGHT - 14]
    return {"size": [HEIGHT, WIDTH], "counts": [*runs, 14, HEIGHT * WIDTH - sum(runs) - 14]}


def _text(mask: dict[str, Any]) -> dict[str, Any]:
    return {**mask, "counts": parse_mask(mask, None)[1]}


def truth() -> dict[str, Any]:
    polygon = [[4, 6, 24, 6, 24, 20, 4, 20]]
    masks = [_mask(4), _text(_mask(9)), polygon, None]
    boxes = [[4.0, 6.0, 10.0, 14.0], [9.0, 6.0, 10.0, 14.0], [4.0, 6.0, 20.0, 14.0], None]
    names = {v: [f"v{v}/{t}.png" for t in range(T)] for v in (1, 2)}
    return {
        "videos": [
            {"id": v, "height": HEIGHT, "width": WIDTH, "file_names": files, "length": T}
            for v, files in names.items()
        ],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
        "annotations": [
            {"id": v, "video_id": v, "category_id": (7, 3)[v - 1], "iscrowd": 0,
             "segmentations": masks, "bboxes": boxes, "areas": [140, 140, 280, None]}
            for v in (1, 2)
        ],
    }  # fmt: skip


def results() -> list[dict[str, Any]]:
    return [
        {"video_id": a["video_id"], "category_id": c, "score": 0.9, "segmentations": [
            _text(_mask(4)), _text(_mask(9)), None, _text(_mask(2))]}
        for a in truth()["annotations"] for c in (7, 3)
    ]  # fmt: skip


def coco() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "height": HEIGHT, "width": WIDTH, "file_name": "1.jpg"}],
        "categories": truth()["categories"],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "iscrowd": 0, "bbox": [4, 6, 20, 14],
             "segmentation": [[4, 6, 24, 6, 24, 20, 4, 20]]},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [4, 6, 10, 14],
             "segmentation": _text(_mask(4))},
        ],
    }  # fmt: skip


def coco_results() -> list[dict[str, Any]]:
    return [
        {"image_id": 1, "category_id": c, "score": 0.9, "segmentation": _text(_mask(4)),
         "bbox": [4.0, 6.0, 10.0, 14.0]} for c in (7, 3)
    ]  # fmt: skip


def coco_video() -> dict[str, Any]:
    return {
        "videos": [{"id": 5, "name": "v"}],
        "images": [
            {"id": t, "video_id": 5, "frame_id": t, "file_name": f"{t}.jpg", "height": HEIGHT,
             "width": WIDTH} for t in range(2)
        ],
        "categories": truth()["categories"],
        "annotations": [
            {"id": t, "image_id": t, "category_id": 7, "instance_id": 1,
             "segmentation": _text(_mask(4))} for t in range(2)
        ],
    }  # fmt: skip


def said(call: Callable[[], Any]) -> None:
    """Expected errors are one sentence."""
    try:
        call()
    except EXPECTED as error:
        assert str(error).strip(), "an error without words"


def json_file(value: Any, rng: random.Random, folder: Path, name: str) -> Path:
    path = folder / name
    data = to_text(damage_value(value, rng))
    path.write_bytes(damage_bytes(data, rng) if rng.random() < 0.3 else data)
    return path


def annotation(rng: random.Random, folder: Path) -> None:
    path = json_file(truth(), rng, folder, "a.json")
    said(lambda: load_annotation_file(path, presence=rng.choice(("mask", "box"))))
    said(lambda: evaluate(path, results()))
    said(lambda: check(read_content(path)))
    said(lambda: measure(path))
    said(lambda: read_sound_content(path))


def stills(rng: random.Random, folder: Path) -> None:
    listed = json_file(coco(), rng, folder, "c.json")
    said(lambda: load_coco_file(listed, "as_is"))
    said(lambda: listed_stills(listed, folder))
    said(lambda: evaluate_coco(listed, coco_results()))
    said(lambda: from_coco_video(json_file(coco_video(), rng, folder, "v.json")))


def still_results(rng: random.Random, folder: Path) -> None:
    path = json_file(coco_results(), rng, folder, "r.json")
    sound = folder / "c.json"
    sound.write_text(json.dumps(coco()))
    said(lambda: evaluate_coco(sound, path))
    said(lambda: as_video_entries(load_results(path)))


def results_file(rng: random.Random, folder: Path) -> None:
    path = json_file(results(), rng, folder, "r.json")
    if rng.random() < 0.3:
        data, path = path.read_bytes(), folder / "r.zip"
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", rng.choice((0, 8, 12, 14))) as archive:
            archive.writestr("results.json", data)
        path.write_bytes(damage_bytes(packed.getvalue(), rng))
    said(lambda: evaluate(truth(), path))
    said(lambda: tracks_from_entries(e for e in load_results(path) if isinstance(e, dict)))


def run_lengths(rng: random.Random, folder: Path) -> None:
    for _ in range(20):
        text = _text(_mask(4))["counts"]
        data = damage_bytes(text.encode(), rng)
        counts: Any = data.decode("latin-1")
        if rng.random() < 0.2:
            counts = damage_value(_mask(4)["counts"], rng)
        mask = {"size": [HEIGHT, WIDTH], "counts": counts}

        def read(mask=mask) -> None:
            size, own = parse_mask(mask, None)
            if size is not None:
                read_runs([own], [size[0] * size[1]])

        said(read)
        entry = {"video_id": 1, "category_id": 3, "score": 0.5, "segmentations": [mask] * T}
        said(lambda entry=entry: evaluate(truth(), [entry]))


def picture(rng: random.Random, folder: Path) -> None:
    pixels = np.random.default_rng(rng.randrange(9)).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    form, mode = rng.choice(
        (
            *(("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P")),
            *(("PNG", "I;16"), ("BMP", "RGB"), ("TIFF", "F"), ("WEBP", "RGBA"), ("PPM", "RGB")),
            *(("GIF", "P"), ("TIFF", "RGB"), ("TGA", "RGB"), ("JPEG2000", "RGB")),
        )
    )
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(buffer, form, **({"exif": exif} if form in ("JPEG", "PNG", "WEBP") else {}))
    path = folder / f"picture.{form.lower()}"
    path.write_bytes(damage_bytes(buffer.getvalue(), rng))
    said(lambda: read_frame(path, upright=rng.random() < 0.5))
    said(lambda: read_labels(path))


def video(rng: random.Random, folder: Path) -> None:
    suffix = rng.choice(("mp4", "webm", "gif"))
    path = folder / f"film.{suffix}"
    path.write_bytes(damage_bytes((folder.parent / f"sound.{suffix}").read_bytes(), rng))
    source = open_video(path)
    said(lambda: [frame.shape for frame in source.frames()])
    said(source.num_frames)
    said(source.fps)


def weights(rng: random.Random, folder: Path) -> None:
    suffix = rng.choice(("pth", "safetensors"))
    path = folder / f"weights.{suffix}"
    data = (folder.parent / f"sound.{suffix}").read_bytes()
    if suffix == "pth" and rng.random() < 0.2:
        data = opcodes(rng)
    elif rng.random() < 0.6:  # where the structure is
        span = min(len(data), 6000)
        end = rng.random() < 0.3
        piece = damage_bytes(data[-span:] if end else data[:span], rng)
        data = data[:-span] + piece if end else piece + data[span:]
    else:
        data = damage_bytes(data, rng)
    path.write_bytes(data)
    said(lambda: load_checkpoint(path))
    said(lambda: model_from_checkpoint(path))
    said(lambda: load_backbone_weights(build_model_from_config(SMALL), path))


def settings_in_weights(rng: random.Random, folder: Path) -> None:
    content = torch.load(folder.parent / "sound.pth", weights_only=True)
    content["model_config"] = damage_value(config_to_dict(SMALL), rng)
    content["classes"] = damage_value({"ids": [1, 2, 3], "names": ["a", "b", "c"]}, rng)
    torch.save(content, folder / "settings.pth")
    said(lambda: model_from_checkpoint(folder / "settings.pth"))


def checkpoint_folder(rng: random.Random, folder: Path) -> None:
    target = folder / "step_00000001"
    shutil.copytree(folder.parent / "step_00000001", target)
    name = rng.choice((".metadata", ".metadata", "run.json", "__0_0.distcp", "pickle"))
    if name == "pickle":
        described = pickle.loads((target / ".metadata").read_bytes())  # made by ourselves
        described.planner_data = Call(folder / "called")
        data = damage_bytes(pickle.dumps(described), rng)
        (target / ".metadata").write_bytes(data)
    elif name == "run.json":
        run = json.loads((target / name).read_text())
        (target / name).write_bytes(to_text(damage_value(run, rng)))
    else:
        (target / name).write_bytes(damage_bytes((target / name).read_bytes(), rng))
    said(lambda: load_checkpoint(target))
    said(lambda: model_from_checkpoint(target))
    said(lambda: read_run(target))
    with distributed_context("cpu") as parallel:
        model = build_model_from_config(SMALL)
        said(lambda: Checkpoints(folder, parallel, 1).load(target, {"model": model_tensors(model)}))


def cache(rng: random.Random, folder: Path) -> None:
    data = (folder.parent / "sound.packed").read_bytes()
    span = min(len(data), 2000)
    (folder / "a.safetensors").write_bytes(damage_bytes(data[:span], rng) + data[span:])

    def read() -> None:
        packed = open_packed(folder / "a.safetensors")
        assert packed is not None

    said(read)


def config(rng: random.Random, folder: Path) -> None:
    for kind in (TrainConfig, ModelConfig, DataConfig, EvalConfig):
        value = json.loads(to_text(config_to_dict(kind())))
        said(lambda kind=kind, value=value: config_from_dict(kind, damage_value(value, rng)))


def annotation_tool(rng: random.Random, folder: Path) -> None:
    """What CVAT, labelme and COCO's tools export."""
    xml = folder / "annotations.xml"
    xml.write_bytes(damage_bytes(cvat_file(rng).encode(), rng))
    options = CvatOptions(take_boxes=rng.random() < 0.5, cut_covered=rng.random() < 0.5)
    said(lambda: convert_cvat(xml, folder / "cvat", options=options))
    (folder / "labelme").mkdir()
    json_file(labelme_file(HEIGHT, WIDTH), rng, folder / "labelme", "0.json")
    said(lambda: convert_labelme(folder / "labelme", folder / "out", take_boxes=True))
    sequence = json_file(coco_video(), rng, folder, "sequence.json")
    said(lambda: convert_coco(sequence, folder / "coco"))


CASES: tuple[Case, ...] = (
    *(annotation, annotation, annotation, stills, still_results, results_file, results_file),
    run_lengths,
    *(picture, picture, picture, video, weights, settings_in_weights, checkpoint_folder),
    *(cache, config, config, annotation_tool),
)


def prepare(folder: Path) -> None:
    """Sound files that the cases damage."""
    torch.manual_seed(0)
    model = build_model_from_config(SMALL)
    torch.save({"model": to_published(model), "epoch": 3}, folder / "sound.pth")
    classes = ClassMap((1, 2, 3), ("a", "b", "c"))
    save_safetensors(folder / "sound.safetensors", model, classes)
    save_packed(pack_annotations("sound", truth()), folder / "sound.packed")
    film = [np.full((HEIGHT, WIDTH, 3), 30 * t, np.uint8) for t in range(6)]
    for suffix in ("mp4", "webm", "gif"):
        write_video(folder / f"sound.{suffix}", film)
    with distributed_context("cpu") as parallel:
        checkpoints = Checkpoints(folder / "run", parallel, keep=1)
        run = {"step": 1, "classes": classes.to_dict(), "model_config": config_to_dict(SMALL)}
        run |= {"steps_per_epoch": 1, "global_batch_size": 1, "seconds": 1.0, "log_window": []}
        run |= {"skipped_steps": 0, "scaler": {}, "args": config_to_dict(TrainConfig())}
        checkpoints.save(1, {"model": model_tensors(model)}, run)
        checkpoints.wait()
        shutil.move(checkpoints.path(1), folder / "step_00000001")


def run_case(number: int, seed: int, folder: Path) -> str:
    """What is wrong with a case; "" if nothing is."""
    rng = random.Random(f"{seed} {number}")
    own = folder / "case"
    own.mkdir()
    case = CASES[number % len(CASES)]
    start = time.process_time()
    try:
        case(rng, own)
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}:{last.lineno}"
        return f"{case.__name__}: {type(error).__name__}: {error!s:.200} at {place}"
    finally:
        called = (own / "called").exists()
        shutil.rmtree(own, ignore_errors=True)
    if called:
        return f"{case.__name__}: code of the file was executed"
    seconds = time.process_time() - start
    return f"{case.__name__}: takes {seconds:.0f} s" if seconds > SECONDS else ""


def main() -> None:
    folder, seed, first, last = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    Image.MAX_IMAGE_PIXELS = None
    os.environ["SEQFORMER_MAX_PIXELS"] = str(2**22)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not (folder / "sound.pth").exists():
        prepare(folder)
    for number in range(first, last):
        print(f"case {number} {CASES[number % len(CASES)].__name__}", flush=True)
        problem = run_case(number, seed, folder)
        if problem:
            print(f"PROBLEM {number} {problem}", flush=True)
    print("end", flush=True)


if __name__ == "__main__":
    main()
