"""The device of a process."""

from __future__ import annotations

import torch


def device_of(choice: str, local_rank: int = 0) -> torch.device:
    """ "cpu", "cuda", or "auto": a GPU where there is one. A GPU becomes the current one.

    Args:
        local_rank: of the process on this machine; the number of its GPU.

    Raises: ValueError: a GPU is asked for and there is none, or none with this number.
    """
    if choice == "cpu" or (choice == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device cuda was asked for but PyTorch finds no usable GPU; use cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local_rank} has no GPU: this machine has {torch.cuda.device_count()}; "
            "start as many processes as there are GPUs (torchrun --nproc-per-node)"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
