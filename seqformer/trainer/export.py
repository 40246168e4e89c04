"""A run's weights as one safetensors file, which the predictor and `--weights` read.

`seqformer export CHECKPOINT_FOLDER FILE.safetensors` makes one from a checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from seqformer.config import BackboneName, EvalConfig, ModelConfig, config_to_dict
from seqformer.files import write_bytes
from seqformer.model import model_from_checkpoint, to_published
from seqformer.model.weight_files import safetensors_bytes
from seqformer.structures import ClassMap
from seqformer.trainer.parallel_model import ParallelModel


def export_weights(
    path: Path, parallel_model: ParallelModel, classes: ClassMap, evaluation: EvalConfig
) -> None:
    """Gather the weights and write them, atomically, on rank 0. All processes take part.

    Args:
        evaluation: frame size and so on that the run validates with; the predictor takes it over.
    """
    whole = {}
    for name, tensor in to_published(parallel_model.model).items():
        gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if parallel_model.parallel.is_main:
            whole[name] = gathered.cpu()
    if parallel_model.parallel.is_main:
        _write(path, whole, parallel_model.model.config, classes, config_to_dict(evaluation))
    parallel_model.parallel.barrier()


def export_checkpoint(checkpoint: Path, path: Path, backbone: BackboneName | None = None) -> None:
    """Write the weights of a checkpoint folder or weights file as one file.

    Args:
        backbone: what the checkpoint is believed to hold; checked.

    Raises: FileNotFoundError or ValueError naming the checkpoint when it holds no whole model.
    """
    model, loaded = model_from_checkpoint(checkpoint, backbone)
    settings = loaded.extra.get("args")
    known = settings.get("eval") if isinstance(settings, dict) else None
    _write(path, loaded.state, model.config, loaded.classes, known)


def _write(
    path: Path,
    state: dict[str, torch.Tensor],
    config: ModelConfig,
    classes: ClassMap | None,
    evaluation: dict[str, Any] | None,
) -> None:
    metadata = {"model_config": json.dumps(config_to_dict(config))}
    if classes is not None:  # released files do not say it
        metadata["classes"] = json.dumps(classes.to_dict())
    if evaluation is not None:
        metadata["args"] = json.dumps({"eval": evaluation})
    # Box heads stand in the file twice, as published; safetensors refuses shared memory.
    separate = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    write_bytes(path, safetensors_bytes(separate, metadata))
