"""A process of two whose rank 1 fails in its second step, where taking leave hangs.

`python -m tests.trainer.failing_rank OUTPUT`, with torchrun's variables.
"""

import sys
import time

import torch
import torch.distributed as dist

from seqformer.cli import train as command
from seqformer.config import presets
from seqformer.trainer import trainer
from tests.trainer.tiny import CLASSES, TinyLoader, tiny_config


class Failing(TinyLoader):
    """Rank 1 finds a bug in its second step."""

    def __init__(self, config, rank, world_size):
        super().__init__(config, rank, world_size)
        self.rank = rank

    def _batches(self):
        for number, batch in enumerate(super()._batches()):
            if self.rank == 1 and number == 1:
                raise ZeroDivisionError("a planted bug")
            yield batch


def main() -> None:
    torch.set_num_threads(1)
    dist.destroy_process_group = lambda *args: time.sleep(600)
    trainer.build_train_loader = lambda config, seed, rank, world_size: (
        Failing(config, rank, world_size),
        CLASSES,
    )
    known = presets()
    command.presets = lambda: known | {"mini": ("", tiny_config(sys.argv[1]))}
    sys.exit(command.main(["mini", "--output", sys.argv[1]]))


if __name__ == "__main__":
    main()
