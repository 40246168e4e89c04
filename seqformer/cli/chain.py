"""Both stages of the recipe as one run: COCO pictures, then videos.

seqformer chain --coco COCO_FOLDER --ytvis YTVIS_FOLDER --output runs/chain
"""

from __future__ import annotations

from collections.abc import Sequence

from seqformer.cli.command import parse
from seqformer.cli.train import changed, expected_errors
from seqformer.command import Command, end_if_asked
from seqformer.config import TrainConfig
from seqformer.config.chain import ChainOptions, stage_presets
from seqformer.distributed.environment import launch

STAGES = ("stills", "videos")


def main(arguments: Sequence[str], program: str = "seqformer chain") -> int:
    """Parse and run. Returns: the exit code; what the user can mend is one sentence and 1."""
    own, of_stages = split_words(arguments)
    options = parse(ChainOptions, own, program)
    stills, videos = (
        changed(default, of_stages[name], f"{program} (stage {name})")
        for name, default in zip(STAGES, stage_presets(options), strict=True)
    )
    command = Command(program, error_code=1, hint="the same command goes on")
    if not options.dry_run:
        command.folder = options.output
    return command.run(lambda: _act(options, stills, videos), expected_errors)


def split_words(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The words of the chain itself, and those of each stage: `--stills.seed 3` is `--seed 3` of
    the first, `--both.seed 3` of both. Values follow their option."""
    own: list[str] = []
    of_stages: dict[str, list[str]] = {name: [] for name in STAGES}
    places = [own]
    for word in arguments:
        if word.startswith("--"):
            prefix, dot, rest = word[2:].partition(".")
            names = STAGES if prefix == "both" else (prefix,)
            if dot and set(names) <= set(STAGES):
                places, word = [of_stages[name] for name in names], f"--{rest}"
            else:
                places = [own]
        for place in places:
            place.append(word)
    return own, of_stages


def _act(options: ChainOptions, stills: TrainConfig, videos: TrainConfig) -> None:
    # Imported only now: torch takes seconds, and --help must not wait for it.
    from seqformer.trainer.chain import run_chain
    from seqformer.trainer.chain_plan import describe_chain
    from seqformer.trainer.chain_stages import stages_of
    from seqformer.trainer.errors import setup_errors
    from seqformer.trainer.terminal import setup_logging

    end_if_asked()
    setup_logging(is_main=launch().rank == 0)
    with setup_errors():
        stages = stages_of(options, stills, videos)
        if options.dry_run:
            if launch().rank == 0:
                print(describe_chain(options, stages))
            return
    run_chain(options, stages)
