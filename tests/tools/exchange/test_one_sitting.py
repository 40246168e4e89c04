"""docs/data.md's four commands: an export of CVAT -> weights -> results and report -> corrections.

The export is of drawn videos, as an image task of CVAT with a folder per video. `python -m
tests.tools.exchange.test_one_sitting FOLDER VIDEOS STEPS [options of train]` does it at full size.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from seqformer.cli.main import main
from seqformer.data.synthetic import make_synthetic_dataset

ROOT = Path(__file__).parents[3]


def write_export(path, num_videos, num_frames=6, height=96, width=144):
    """A zip as CVAT for images 1.1 writes it, with its images."""
    paths = make_synthetic_dataset(
        path.parent / "drawn",
        num_train=num_videos,
        num_val=1,
        num_frames=num_frames,
        height=height,
        width=width,
        seed=0,
    )
    content = json.loads(paths.train_annotations.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    labels = "".join(f"<label><name>{name}</name></label>" for name in names.values())
    lines = [
        f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
    ]
    number = 0
    with zipfile.ZipFile(path, "w") as archive:
        for video in content["videos"]:
            entries = [e for e in content["annotations"] if e["video_id"] == video["id"]]
            for t, name in enumerate(video["file_names"]):
                archive.write(paths.train_images / name, f"images/{name}")
                lines.append(
                    f'<image id="{number}" name="{name}" width="{width}" height="{height}">'
                )
                for group, entry in enumerate(entries, start=1):
                    if entry["segmentations"][t]:
                        label, what = names[entry["category_id"]], rle_of(entry, t)
                        lines.append(f'<mask label="{label}" {what} group_id="{group}"></mask>')
                lines.append("</image>")
                number += 1
        archive.writestr("annotations.xml", "\n".join([*lines, "</annotations>"]))
    return content


def rle_of(entry, t):
    from tests.tools.exchange.cvat_files import rle_attributes

    return rle_attributes(coco_mask.decode(entry["segmentations"][t]).astype(bool))


def commands():
    """The commands of the section, as lists of words."""
    text = (ROOT / "docs" / "data.md").read_text()
    section = text.partition("## From CVAT to corrections")[2].partition("\n## ")[0]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL).group(1).replace("\\\n", " ")
    return [line.split() for line in block.splitlines() if line and not line.startswith("#")]


def test_four_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = write_export(tmp_path / "export.zip", num_videos=2, num_frames=3, height=64, width=96)
    small = ["--max-steps", "2", "--device", "cpu"]
    small += ["--data.batch-size", "1", "--data.num-workers", "0", "--log-every", "1"]
    words = commands()
    assert [w[:3] for w in words] == [
        ["seqformer", "data", "convert"],
        ["seqformer", "train", "mini"],
        ["seqformer", "eval", "--weights"],
        ["seqformer", "data", "export"],
    ]
    words[1] += small
    words[2] += ["--device", "cpu", "--threads", "1"]
    words[3] += ["--min-score", "0"]
    for arguments in words:
        assert main(arguments[1:]) == 0, arguments
    converted = json.loads((tmp_path / "data" / "instances.json").read_text())
    assert len(converted["annotations"]) == len(content["annotations"])
    for made, drawn in zip(converted["annotations"], content["annotations"], strict=True):
        assert made["areas"] == drawn["areas"]
    assert (tmp_path / "report" / "index.html").is_file()
    corrections = sorted((tmp_path / "corrections").glob("*.xml"))
    assert len(corrections) == 2
    assert f'name="{content["videos"][0]["file_names"][0]}"' in corrections[0].read_text()


if __name__ == "__main__":
    import os
    import resource
    import time

    folder, num_videos, steps = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    folder.mkdir(parents=True)
    os.chdir(folder)
    write_export(folder / "export.zip", num_videos)
    words = commands()
    words[1][words[1].index("--max-steps") + 1] = steps
    words[1] += sys.argv[4:]
    for arguments in words:
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
        assert main(arguments[1:]) == 0
        used = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        seconds = time.perf_counter() - started
        print(f"{' '.join(arguments[:4])}: {seconds:.0f} s, {used:.0f} s of CPU time")
    scores = np.array([r["score"] for r in json.loads(Path("results.json").read_text())])
    print(f"{len(scores)} results, {np.sum(scores >= 0.3)} of them above 0.3")
