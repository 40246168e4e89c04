"""Weights from files: released checkpoints, our own, safetensors, and ImageNet backbones.

Nothing in a file is ever executed: torch files are read with `weights_only=True`, and the harmless
plain classes that released files carry beside the tensors are admitted by name.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException

from ..config import ModelConfig, config_from_dict, config_to_dict
from ..structures import ClassMap
from .backbone import BACKBONES
from .convert import (
    identify_backbone,
    identify_config,
    num_classes,
    published_name,
    to_published,
    with_box_head_aliases,
)
from .seqformer import SeqFormer

_PLAIN_CLASSES = [
    argparse.Namespace,
    collections.Counter,
    collections.OrderedDict,
    collections.defaultdict,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
]


@dataclass
class Checkpoint:
    """What a weights file says.

    Attributes:
        path: the file.
        state: published name -> tensor.
        num_classes: K of its class heads; None when it has none.
        classes: class names and category ids, in our own files.
        model_config: in our own files, and for released ones as read from keys and shapes.
        extra: everything else in the file (optimiser, epoch, ...), plain types.
    """

    path: Path
    state: dict[str, Tensor]
    num_classes: int | None
    classes: ClassMap | None
    model_config: ModelConfig | None
    extra: dict[str, Any] = field(default_factory=dict)


def build_model(
    backbone: str = "resnet50", num_classes: int = 42, dropout: float = 0.0, **settings: Any
) -> SeqFormer:
    """A SeqFormer with fresh weights; further settings are the fields of `ModelConfig`.

    Raises: ValueError on an unknown backbone or a setting out of range.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone {backbone!r} is unknown; choose one of {', '.join(BACKBONES)}")
    return SeqFormer(
        ModelConfig(backbone=backbone, num_classes=num_classes, dropout=dropout, **settings)
    )


def build_model_from_config(config: ModelConfig) -> SeqFormer:
    """A SeqFormer with fresh weights."""
    return SeqFormer(config)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a weights file of any kind we know, on the CPU, executing nothing from it.

    Raises: FileNotFoundError; ValueError naming the file when it is corrupt, holds no SeqFormer
        weights, holds other objects than tensors and plain data, or non-finite numbers.
    """
    path = Path(path)
    content = _read(path)
    state = content.pop("model", None)
    if state is None:
        tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
        state, content = tensors, {k: v for k, v in content.items() if k not in tensors}
    if not isinstance(state, dict) or not state:
        raise ValueError(
            f"{path} holds no weights: expected {{'model': state dict}}, found keys "
            f"{sorted(content)[:8]}"
        )
    state = {str(k).removeprefix("module."): v for k, v in state.items()}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: weight {key} is a {type(value).__name__}, not a tensor")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(
                f"{path}: weight {key} holds NaN or infinite numbers; the run that wrote it "
                "diverged, use an earlier checkpoint"
            )
    classes = content.get("classes")
    config = content.get("model_config")
    return Checkpoint(
        path=path,
        state=state,
        num_classes=num_classes(state),
        classes=None if classes is None else ClassMap.from_dict(classes),
        model_config=(
            identify_config(state) if config is None else config_from_dict(ModelConfig, config)
        ),
        extra=content,
    )


def load_weights(
    model: SeqFormer, path: str | Path | Checkpoint, drop_class_heads: bool = False
) -> Checkpoint:
    """Load a weights file into a model, every key and shape accounted for.

    Args:
        model: changed in place.
        path: a released file, one of ours (torch or safetensors), or what `load_checkpoint` gave.
        drop_class_heads: leave the file's class heads out and keep the model's own, to start a
            training with other classes.

    Returns: what the file says.
    Raises: as `load_checkpoint`; ValueError listing missing and unexpected keys and differing
        shapes, and saying which backbone or class count would fit.
    """
    checkpoint = path if isinstance(path, Checkpoint) else load_checkpoint(path)
    wanted = to_published(model)
    given = checkpoint.state
    if drop_class_heads:
        given = {k: v for k, v in given.items() if not k.startswith("detr.class_embed.")}
        wanted = {k: v for k, v in wanted.items() if not k.startswith("detr.class_embed.")}
    problems = _mismatch(wanted, given)
    if problems:
        raise ValueError(
            f"{checkpoint.path} does not fit the model ({model.config.backbone}, "
            f"{model.config.num_classes} classes): {problems}. {_advice(model, checkpoint)}"
        )
    ours = {name: given.get(published_name(name)) for name in model.state_dict()}
    if drop_class_heads:
        ours = {name: value for name, value in ours.items() if value is not None}
    model.load_state_dict(ours, strict=not drop_class_heads)
    return checkpoint


def model_from_checkpoint(
    path: str | Path, backbone: str | None = None
) -> tuple[SeqFormer, Checkpoint]:
    """The model a weights file was made for, with its weights, in evaluation mode.

    Args:
        path: as in `load_checkpoint`.
        backbone: what the caller believes the file holds; checked.

    Raises: as `load_weights`; ValueError when the file holds another backbone or no class heads.
    """
    checkpoint = load_checkpoint(path)
    config = checkpoint.model_config
    if config is None:
        found = sorted(checkpoint.state)[:3]
        raise ValueError(f"{path} holds no SeqFormer weights; its first keys are {found}")
    if backbone is not None and backbone != config.backbone:
        raise ValueError(
            f"{path} holds weights of {config.backbone}, not of {backbone}; "
            f"use --backbone {config.backbone}"
        )
    if checkpoint.num_classes is None:
        raise ValueError(f"{path} has no class heads; train before using it for inference")
    if checkpoint.num_classes != config.num_classes:
        raise ValueError(
            f"{path} is inconsistent: its class heads have {checkpoint.num_classes} outputs, its "
            f"settings say {config.num_classes}"
        )
    model = SeqFormer(replace(config, dropout=0.0, drop_path=0.0))
    load_weights(model, checkpoint)
    return model.eval(), checkpoint


def save_safetensors(path: str | Path, model: SeqFormer, classes: ClassMap) -> None:
    """Write weights, settings and class map as one safetensors file under the published names."""
    from safetensors.torch import save_file  # building a model takes no more than torch

    state = {k: v.cpu().contiguous().clone() for k, v in to_published(model).items()}
    metadata = {
        "model_config": json.dumps(config_to_dict(model.config)),
        "classes": json.dumps(classes.to_dict()),
    }
    save_file(state, str(path), metadata=metadata)


def load_backbone_weights(model: SeqFormer, path: str | Path) -> None:
    """Load ImageNet weights into the backbone: torchvision-layout ResNets or official Swin files.

    Classifier, final norm and recomputed index buffers of the file are left out; the per-stage
    output norms of Swin keep their fresh values. Everything else must fit.

    Raises: FileNotFoundError; ValueError listing what does not fit and which backbone would.
    """
    path = Path(path)
    content = _read(path)
    state = content.get("model", content.get("state_dict", content))
    state = {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    given = {
        k: v
        for k, v in state.items()
        if not (
            k.startswith(("fc.", "head.", "norm."))
            or k.endswith(("attn_mask", "num_batches_tracked"))
        )
    }
    wanted = {
        k: v
        for k, v in model.backbone.state_dict().items()
        if not k.startswith(("norm0.", "norm1.", "norm2.", "norm3."))
    }
    problems = _mismatch(wanted, given)
    if problems:
        fits = identify_backbone(given, prefix="")
        advice = f"the file fits backbone {fits}" if fits else "the file fits no backbone we know"
        raise ValueError(
            f"{path} does not fit backbone {model.config.backbone}: {problems}; {advice}"
        )
    model.backbone.load_state_dict(given, strict=False)


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            known = ("model_config", "classes", "args")
            extra = {k: json.loads(metadata[k]) for k in known if k in metadata}
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
        return {"model": state, **extra}
    try:
        with torch.serialization.safe_globals(_PLAIN_CLASSES):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds objects that are not weights, or is corrupt; it was not executed "
            f"({_first_sentence(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not a readable checkpoint, it may be cut off: {_first_sentence(error)}; "
            "download or copy it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return dict(content)


def _read_folder(path: Path) -> dict[str, Any]:
    """The weights in a checkpoint folder of a training run, without its optimiser."""
    if not (path / "run.json").is_file():
        raise ValueError(
            f"{path} is not a checkpoint folder, it has no run.json; give a weights file, or a "
            "folder like RUN/checkpoints/step_00001000"
        )
    try:
        run = json.loads((path / "run.json").read_text())
        if not isinstance(run, dict):
            raise RuntimeError(f"run.json holds {str(run)[:20]!r} instead of a run")
        described = FileSystemReader(path).read_metadata().state_dict_metadata
        state = {
            key: torch.empty(value.size, dtype=value.properties.dtype)
            for key, value in described.items()
            if key.startswith("model.")
        }
        dcp.load(state, checkpoint_id=path, no_dist=True)
    except (json.JSONDecodeError, OSError, RuntimeError, CheckpointException) as error:
        raise ValueError(
            f"{path} is not a readable checkpoint: {_first_sentence(error)}; copy it again"
        ) from error
    state = {key.removeprefix("model."): value for key, value in state.items()}
    return {"model": with_box_head_aliases(state), **run}


def _first_sentence(error: Exception) -> str:
    return str(error).split("\n")[0][:200]


def _mismatch(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    """ "" when keys and shapes agree, else what does not, shortened."""
    missing = [k for k in wanted if k not in given]
    unexpected = [k for k in given if k not in wanted]
    shapes = [
        f"{k} {list(given[k].shape)} instead of {list(wanted[k].shape)}"
        for k in wanted
        if k in given and given[k].shape != wanted[k].shape
    ]
    parts = []
    for title, keys in (("missing", missing), ("unexpected", unexpected), ("shapes", shapes)):
        if keys:
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            parts.append(f"{len(keys)} {title} ({', '.join(keys[:4])}{more})")
    return "; ".join(parts)


def _advice(model: SeqFormer, checkpoint: Checkpoint) -> str:
    config = checkpoint.model_config
    if config is None:
        return "The file holds no SeqFormer weights"
    if config.backbone != model.config.backbone:
        return f"The file would fit backbone {config.backbone}"
    if checkpoint.num_classes is None:
        return "The file has no class heads; load it with drop_class_heads=True"
    if checkpoint.num_classes != model.config.num_classes:
        return (
            f"The file would fit num_classes={checkpoint.num_classes}; "
            "or load it with drop_class_heads=True"
        )
    return f"The file would fit {config}"
