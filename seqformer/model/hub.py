"""Weights as a folder, here or on the Hugging Face hub.

A folder holds `model.safetensors`, which says by itself what model and classes it is of,
`config.json` with the same for people and for the hub, and a card, `README.md`. huggingface_hub is
needed for repositories only, and imported by the calls that reach one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..config import EvalConfig, config_to_dict
from ..files import write_text
from ..safe_files import read_regular
from ..structures import ClassMap
from .checkpoint import model_from_checkpoint, save_safetensors
from .seqformer import SeqFormer

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def from_pretrained(name: str | Path, **download: Any) -> SeqFormer:
    """A model with its weights, in evaluation mode; its `classes` are the file's.

    Args:
        name: a folder that `save_pretrained` wrote, or a repository of the hub, "user/name".
        download: for a repository, as huggingface_hub's mixin takes them: `revision`, `token`,
            `cache_dir`, `local_files_only`, `force_download`.

    Raises: FileNotFoundError or ValueError naming the folder when it holds no such weights,
        ImportError if a repository is asked for without huggingface_hub.
    """
    folder = Path(name)
    if folder.is_dir():
        return _from_folder(folder)
    if isinstance(name, Path) or str(name).count("/") != 1 or str(name)[0] in "./~":
        raise FileNotFoundError(
            f"{name} is no folder, and no repository of the hub (which is called user/name)"
        )
    return _bridge().from_pretrained(str(name), **download)


def save_pretrained(
    model: SeqFormer,
    folder: str | Path,
    *,
    classes: ClassMap | None = None,
    evaluation: EvalConfig | None = None,
    metrics: Mapping[str, Any] | str | Path | None = None,
) -> None:
    """Write a folder that `from_pretrained` reads, and whose file the predictor reads.

    Args:
        folder: is made; what it holds of these three files is replaced.
        classes: of the outputs; those of the model (`model.classes`) by default.
        evaluation: frame size and so on that the predictor takes over.
        metrics: of the run, or its metrics.json; the card has a table of them.

    Raises: ValueError without classes, or if their number is not the model's, or for metrics that
        are no JSON object.
    """
    classes = classes or model.classes
    if classes is None:
        raise ValueError("the model does not know its classes; give save_pretrained(classes=...)")
    if classes.num_classes != model.config.num_classes:
        raise ValueError(
            f"the class map has {classes.num_classes} classes and the model "
            f"{model.config.num_classes}"
        )
    scores = _scores(metrics)
    config = {
        "architecture": "SeqFormer",
        "model": config_to_dict(model.config),
        "classes": classes.to_dict(),
        "eval": None if evaluation is None else config_to_dict(evaluation),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(folder / WEIGHTS, model, classes, evaluation)
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    write_text(folder / CARD, _card(model, classes, scores))


def push_to_hub(
    model: SeqFormer,
    repository: str,
    *,
    classes: ClassMap | None = None,
    evaluation: EvalConfig | None = None,
    metrics: Mapping[str, Any] | str | Path | None = None,
    **upload: Any,
) -> str:
    """Upload what `save_pretrained` writes.

    Args:
        repository: "user/name"; made if there is none.
        classes, evaluation, metrics: as in `save_pretrained`.
        upload: as huggingface_hub's mixin takes them: `commit_message`, `private`, `token`,
            `branch`, `create_pr`.

    Returns: the address of the commit.
    Raises: as `save_pretrained`; ImportError without huggingface_hub.
    """

    def save(folder: Path) -> None:
        save_pretrained(model, folder, classes=classes, evaluation=evaluation, metrics=metrics)

    return str(_bridge()(save).push_to_hub(repository, **upload))


# The class is defined below the readers of files, which build it; so its methods come from here.
SeqFormer.from_pretrained = staticmethod(from_pretrained)
SeqFormer.save_pretrained = save_pretrained
SeqFormer.push_to_hub = push_to_hub


def _from_folder(folder: Path) -> SeqFormer:
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}; save_pretrained writes such a folder")
    model, checkpoint = model_from_checkpoint(path)
    model.classes = checkpoint.classes
    return model


def _bridge() -> Any:
    """The mixin of huggingface_hub, which asks for a class that saves into a folder."""
    try:
        from huggingface_hub import ModelHubMixin, hf_hub_download
    except ImportError:
        raise ImportError(
            "repositories of the hub need huggingface_hub: pip install 'seqformer[hub]'"
        ) from None

    class Bridge(ModelHubMixin):
        def __init__(self, save: Callable[[Path], None]) -> None:
            self.save = save

        def _save_pretrained(self, save_directory: Path) -> None:
            self.save(Path(save_directory))

        @classmethod
        def _from_pretrained(cls, *, model_id: str, **options: Any) -> Any:
            known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            given = {name: value for name, value in options.items() if name in known}
            return _from_folder(Path(hf_hub_download(model_id, WEIGHTS, **given)).parent)

    return Bridge


def _scores(metrics: Mapping[str, Any] | str | Path | None) -> dict[str, float]:
    """Those that are numbers."""
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        path = Path(metrics)
        try:
            metrics = json.loads(read_regular(path))
        except ValueError as error:
            raise ValueError(f"{path} is no metrics.json: {error}") from None
        if not isinstance(metrics, dict):
            raise ValueError(f"{path} is no metrics.json: it holds a {type(metrics).__name__}")
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
    return {name: value for name, value in numbers.items() if not isinstance(value, bool)}


def _card(model: SeqFormer, classes: ClassMap, scores: Mapping[str, float]) -> str:
    config = model.config
    names = [name for i, name in zip(classes.ids, classes.names, strict=True) if i >= 0 and name]
    table = "".join(f"| {name} | {value:.4g} |\n" for name, value in scores.items())
    if table:
        table = f"\n## Metrics\n\n| metric | value |\n| --- | --- |\n{table}"
    return f"""---
library_name: seqformer
license: apache-2.0
pipeline_tag: image-segmentation
tags:
- video-instance-segmentation
- seqformer
---

# SeqFormer, {config.backbone}

Video instance segmentation with {config.num_queries} queries and {len(names)} classes:
{", ".join(names)}.

```python
import seqformer

model = seqformer.SeqFormer.from_pretrained("user/name")  # or a folder
predictor = seqformer.Predictor(model, model.classes)
prediction = predictor.predict("my.mp4")
```
{table}"""
