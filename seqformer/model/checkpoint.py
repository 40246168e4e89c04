"""Weights from files: released checkpoints, our own, safetensors, and ImageNet backbones.

`weight_files.py` reads the files; here it is decided which model they are of, and every key and
shape is accounted for before anything of that size is built.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..config import BackboneName, EvalConfig, ModelConfig, config_from_dict, config_to_dict
from ..files import write_bytes
from ..structures import ClassMap
from .backbone import BACKBONES
from .convert import (
    from_own_names,
    identify_backbone,
    identify_config,
    num_classes,
    official_swin_names,
    published_name,
    to_published,
)
from .detectron2_names import (
    backbone_from_detectron2_names,
    detectron2_classes,
    from_detectron2_names,
    is_detectron2,
)
from .seqformer import SeqFormer
from .weight_files import read_weights, safetensors_bytes

logger = logging.getLogger(__name__)

_READ_FROM_SHAPES = (
    *("backbone", "hidden_dim", "num_queries", "num_levels", "ffn_dim", "mask_dim"),
    *("num_encoder_layers", "num_decoder_layers"),
)
"""Fields of the settings that the weights themselves tell."""


@dataclass
class Checkpoint:
    """What a weights file says.

    Attributes:
        path: the file.
        state: published name -> tensor.
        num_classes: K of its class heads; None when it has none.
        classes: class names and category ids, in our own files.
        model_config: in our own files, and for released ones as read from keys and shapes.
        knows_heads: whether the file tells its number of heads, which no shape does.
        extra: everything else in the file (optimiser, epoch, ...), plain types.
    """

    path: Path
    state: dict[str, Tensor]
    num_classes: int | None
    classes: ClassMap | None
    model_config: ModelConfig | None
    knows_heads: bool = False
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
        ModelConfig(
            backbone=cast(BackboneName, backbone),
            num_classes=num_classes,
            dropout=dropout,
            **settings,
        )
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
    state, content = read_weights(path)
    is_rewrite = is_detectron2(state)
    state = from_own_names(from_detectron2_names(state))
    classes = content.get("classes")
    config, knows_heads = _model_config(path, state, content)
    by_rule = detectron2_classes(num_classes(state)) if is_rewrite else None
    return Checkpoint(
        path=path,
        state=state,
        num_classes=num_classes(state),
        classes=by_rule if classes is None else _class_map(path, classes),
        model_config=config,
        knows_heads=knows_heads,
        extra=content,
    )


def _model_config(
    path: Path, state: dict[str, Tensor], content: dict[str, Any]
) -> tuple[ModelConfig | None, bool]:
    """The settings that a file names or its shapes tell, and whether its number of heads is known.

    Raises: ValueError when what it names is not what its shapes tell.
    """
    try:
        shapes, classes = identify_config(state), num_classes(state)
    except (ArithmeticError, IndexError, ValueError) as error:
        raise ValueError(f"{path} has weights of impossible shapes ({error})") from None
    if shapes is None:
        return None, False
    if "model_config" not in content:
        heads = getattr(content.get("args"), "nheads", None)  # of the published trainer
        if type(heads) is not int:
            return shapes, False
        samples = shapes.num_heads * shapes.num_points
        if heads < 1 or samples % heads or shapes.hidden_dim % heads:
            raise ValueError(
                f"{path} says that it has {heads} heads, which does not fit its shapes"
            )
        return replace(shapes, num_heads=heads, num_points=samples // heads), True
    try:
        config = config_from_dict(ModelConfig, content["model_config"])
    except ValueError as error:
        raise ValueError(f"{path} has no proper model settings: {error}") from None
    samples = shapes.num_heads * shapes.num_points
    differing = [
        f"{name} {getattr(config, name)} (its weights: {getattr(shapes, name)})"
        for name in _READ_FROM_SHAPES
        if getattr(config, name) != getattr(shapes, name)
    ]
    if classes is not None and config.num_classes != classes:
        differing.append(f"num_classes {config.num_classes} (its class heads: {classes})")
    if config.num_heads * config.num_points != samples:
        differing.append(f"num_heads x num_points {config.num_heads} x {config.num_points}")
    if differing:
        raise ValueError(f"{path} is inconsistent, its settings say {', '.join(differing)}")
    return config, True


def _class_map(path: Path, classes: Any) -> ClassMap:
    try:
        return ClassMap.from_dict(classes)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} has no proper class map ({error!r:.80})") from None


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
    expected = to_published(model)
    given = checkpoint.state
    if drop_class_heads:
        given = {k: v for k, v in given.items() if not k.startswith("detr.class_embed.")}
        expected = {k: v for k, v in expected.items() if not k.startswith("detr.class_embed.")}
    problems = _mismatch(expected, given) or _other_heads(model, checkpoint)
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
        keys = sorted(checkpoint.state)[:3]
        raise ValueError(f"{path} holds no SeqFormer weights; its first keys are {keys}")
    if backbone is not None and backbone != config.backbone:
        raise ValueError(
            f"{path} holds weights of {config.backbone}, not of {backbone}; "
            f"use --backbone {config.backbone}"
        )
    if checkpoint.num_classes is None:
        raise ValueError(f"{path} has no class heads; train before using it for inference")
    if not checkpoint.knows_heads:
        _assume_heads(path, config)
    config = replace(config, dropout=0.0, drop_path=0.0)
    with torch.device("meta"):  # no memory: the file may claim any size
        problems = _mismatch(to_published(SeqFormer(config)), checkpoint.state)
    if problems:
        raise ValueError(f"{path} does not hold a whole model: {problems}")
    model = SeqFormer(config)
    load_weights(model, checkpoint)
    return model.eval(), checkpoint


def _assume_heads(path: str | Path, config: ModelConfig) -> None:
    """Say that the published number of heads is taken. Raises: ValueError where it cannot be."""
    published = ModelConfig()
    if (config.num_heads, config.num_points) != (published.num_heads, published.num_points):
        raise ValueError(
            f"{path} does not tell its number of attention heads, and its shapes fit "
            f"{config.num_heads * config.num_points} heads times points in several ways; build the "
            "model with its sizes and use load_weights, or save it with save_safetensors, which "
            "keeps them"
        )
    if config.hidden_dim != published.hidden_dim:
        logger.warning(
            "%s does not tell its number of attention heads; the published %d, with %d points, are "
            "assumed",
            path,
            config.num_heads,
            config.num_points,
        )


def save_safetensors(
    path: str | Path,
    model: SeqFormer,
    classes: ClassMap,
    evaluation: EvalConfig | None = None,
) -> None:
    """Write weights, settings and class map as one safetensors file under the published names.

    Args:
        evaluation: frame size and so on that the predictor takes over.
    """
    known = None if evaluation is None else config_to_dict(evaluation)
    write_weights(Path(path), to_published(model), model.config, classes, known)


def write_weights(
    path: Path,
    state: dict[str, Tensor],
    config: ModelConfig,
    classes: ClassMap | None,
    evaluation: dict[str, Any] | None,
) -> None:
    """The same of weights by their published names.

    Args:
        classes: None where they are not known, as those of released files.
        evaluation: an `EvalConfig` as plain JSON types.

    Raises: WriteError.
    """
    metadata = {"model_config": json.dumps(config_to_dict(config))}
    if classes is not None:
        metadata["classes"] = json.dumps(classes.to_dict())
    if evaluation is not None:
        metadata["args"] = json.dumps({"eval": evaluation})
    # Box heads stand in the file twice, as published; safetensors refuses shared memory.
    separate = {name: tensor.cpu().contiguous().clone() for name, tensor in state.items()}
    write_bytes(path, safetensors_bytes(separate, metadata))


def load_backbone_weights(model: SeqFormer, path: str | Path) -> None:
    """Load ImageNet weights into the backbone: ResNets in torchvision's layout or in detectron2's,
    official Swin files, and timm's of both.

    Classifier, final norm and recomputed index buffers of the file are left out; the per-stage
    output norms of Swin keep their fresh values. Everything else must fit.

    Raises: FileNotFoundError; ValueError listing what does not fit and which backbone would.
    """
    path = Path(path)
    state, _ = read_weights(path)
    given = {
        k: v
        for k, v in official_swin_names(backbone_from_detectron2_names(state)).items()
        if not (
            k.startswith(("fc.", "head.", "norm."))
            or k.endswith(("attn_mask", "num_batches_tracked", "relative_position_index"))
        )
    }
    expected = {
        k: v
        for k, v in model.backbone.state_dict().items()
        if not k.startswith(("norm0.", "norm1.", "norm2.", "norm3."))
        and not k.endswith("relative_position_index")
    }
    problems = _mismatch(expected, given)
    if problems:
        fits = identify_backbone(given, prefix="")
        advice = f"the file fits backbone {fits}" if fits else "the file fits no backbone we know"
        raise ValueError(
            f"{path} does not fit backbone {model.config.backbone}: {problems}; {advice}"
        )
    model.backbone.load_state_dict(given, strict=False)


def _mismatch(expected: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    """Which keys and shapes do not agree, shortened; "" where all do."""
    missing = [k for k in expected if k not in given]
    unexpected = [k for k in given if k not in expected]
    shapes = [
        f"{k} {list(given[k].shape)} instead of {list(expected[k].shape)}"
        for k in expected
        if k in given and given[k].shape != expected[k].shape
    ]
    types = [
        f"{k} of {given[k].dtype}".replace("torch.", "")
        for k in expected
        if k in given and expected[k].is_floating_point() and not given[k].is_floating_point()
    ]
    parts = []
    findings = (
        *(("missing", missing), ("unexpected", unexpected)),
        *(("shapes", shapes), ("no real numbers", types)),
    )
    for title, keys in findings:
        if keys:
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            parts.append(f"{len(keys)} {title} ({', '.join(keys[:4])}{more})")
    return "; ".join(parts)


def _other_heads(model: SeqFormer, checkpoint: Checkpoint) -> str:
    """How the heads of the file differ from the model's, which no shape shows; else ""."""
    config = checkpoint.model_config
    if config is None or not checkpoint.knows_heads:
        return ""
    own = model.config
    if (config.num_heads, config.num_points) == (own.num_heads, own.num_points):
        return ""
    return (
        f"it has {config.num_heads} heads and {config.num_points} points, the model "
        f"{own.num_heads} and {own.num_points}"
    )


def _advice(model: SeqFormer, checkpoint: Checkpoint) -> str:
    config = checkpoint.model_config
    if config is None:
        return f"Its names are not those of a SeqFormer ({', '.join(list(checkpoint.state)[:3])})"
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
