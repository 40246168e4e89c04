"""`seqformer chain --dry-run`: the stages, their steps, clips and memory, and what is missing."""

from __future__ import annotations

from dataclasses import replace

from seqformer.command import sentence_of
from seqformer.config import AUTO_WEIGHTS
from seqformer.config.chain import ChainOptions
from seqformer.data.loader import build_train_loader
from seqformer.distributed.environment import launch
from seqformer.model import find_backbone_weights
from seqformer.trainer.backbone_start import SMALL_BACKBONE
from seqformer.trainer.chain_stages import FileStage, Stage, TrainingStage, data_of
from seqformer.trainer.chain_state import ChainState
from seqformer.trainer.checkpoint_folders import checkpoint_folders, step_of
from seqformer.trainer.memory_report import memory_report


def describe_chain(options: ChainOptions, stages: list[Stage]) -> str:
    """What a chain would do, as text. Nothing is written.

    Raises: ValueError when the folder holds another chain.
    """
    state = ChainState.read(options.output)
    if state is not None:
        state.check(stages, options.output)
    finished = () if state is None else state.finished
    lines = []
    for number, stage in enumerate(stages, 1):
        done = "finished" if stage.name in finished else _progress(stage)
        lines.append(f"{number}. {stage.name} ({done})")
        lines += [f"   {line}" for line in _described(stage)]
    missing = [] if options.demo else list(data_of(options).missing)
    missing += [line for stage in stages if (line := _missing_weights(stage))]
    lines += ["missing:", *(f"   {one}" for one in missing)] if missing else ["missing: nothing"]
    return "\n".join(lines)


def _progress(stage: Stage) -> str:
    if isinstance(stage, TrainingStage):
        folders = checkpoint_folders(stage.config.output)
        if folders:
            return f"begun, step {step_of(folders[-1])}"
    return "to do"


def _described(stage: Stage) -> list[str]:
    if isinstance(stage, FileStage):
        return [stage.says]
    config = stage.config
    batch = config.data.global_batch_size or config.data.batch_size * launch().world_size
    try:
        memory = f"{memory_report(config).total / 2**20:,.0f} MB a process at the worst moment"
    except ValueError as error:
        memory = sentence_of(error)
    return [
        f"folder: {config.output}; {config.model.backbone}, {config.data.num_frames} frame(s)",
        f"steps: {_steps(stage)}, of {batch} clips each",
        f"memory: {memory}",
    ]


def _steps(stage: TrainingStage) -> str:
    config = stage.config
    if config.max_steps:
        return f"{config.max_steps:,}"
    data = config.data
    note = ""
    if data.coco_annotations is not None and not data.coco_annotations.is_file():
        data = replace(data, coco_images=None, coco_annotations=None, sampling_weights=())
        note = ", and as many more as there will be pseudo-videos"
    try:
        loader, _ = build_train_loader(
            data, config.seed, rank=launch().rank, world_size=launch().world_size
        )
    except (ValueError, OSError):
        return f"{config.epochs} epochs, of unknown length while the data is missing"
    steps = loader.batch_sampler.steps_per_epoch
    loader.close()
    return f"{config.epochs * steps:,} ({config.epochs} epochs of {steps:,}{note})"


def _missing_weights(stage: Stage) -> str:
    """What the backbone of a stage begins with, where it is not on this machine."""
    if not isinstance(stage, TrainingStage) or stage.config.start.from_scratch:
        return ""
    start, backbone = stage.config.start, stage.config.model.backbone
    if start.weights is not None or backbone == SMALL_BACKBONE or start.backbone_weights is None:
        return ""
    if start.backbone_weights != AUTO_WEIGHTS:
        given = start.backbone_weights
        return "" if given.is_file() else f"{stage.name}: {given} does not exist"
    if find_backbone_weights(backbone) is not None:
        return ""
    return f"{stage.name}: ImageNet weights of {backbone} (they will be downloaded)"
