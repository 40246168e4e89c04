"""A run's weights as one safetensors file, which the predictor and `--weights` read.

`seqformer export CHECKPOINT_FOLDER FILE.safetensors` makes one from a checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from torch.distributed.tensor import DTensor

from seqformer.config import BackboneName, EvalConfig, config_to_dict
from seqformer.model import model_from_checkpoint, to_published
from seqformer.model.checkpoint import write_weights
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
        write_weights(path, whole, parallel_model.model.config, classes, config_to_dict(evaluation))
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
    write_weights(path, loaded.state, model.config, loaded.classes, known)
