"""How many frames go through the network together, from the memory there is.

A power of two with a bound, so that machines (and processes) with about as much memory come to the
same number and write the same results to the last bit.
"""

from __future__ import annotations

from pathlib import Path

import torch

from seqformer.config import EvalConfig

BYTES_PER_PIXEL = 2600
"""Peak memory per input pixel in float32, with room for large backbones and convolution workspaces;
ResNet-50 takes about 550 on a CPU."""
MOST_FRAMES = {"cuda": 32, "cpu": 2}
"""More do not make it faster: a GPU is busy, and a CPU's caches are full, long before."""
MOST_SHARED_FRAMES, SHARED_PIXELS = 8, 2**19
"""What goes together through several threads of a CPU, as far as it has no more pixels than two
frames of 360x640. Calling the operators is work of one thread, and costs as much for two frames as
for eight; but of larger maps every one would be new memory from the system."""
SMALL_PIXELS, MOST_SMALL_FRAMES = 2**15, 8
"""Frames of at most so many pixels go through a CPU so many at a time: one by one, calling the
operators costs more than what they compute."""
SHARE = 0.5
"""Of the free memory that may be used."""


def default_chunk_frames(device: torch.device, config: EvalConfig, threads: int = 1) -> int:
    """Frames of 16:9 and `config.short_side` that fit, at least 1, for so many threads of a CPU."""
    pixels = _pixels(config)
    width = 4 if config.precision in ("fp32", "int8") else 2
    fitting = SHARE * free_memory(device) / (pixels * BYTES_PER_PIXEL * width / 4)
    most = most_frames(device, pixels, threads)
    return 1 << (max(1, min(int(fitting), most)).bit_length() - 1)


def most_frames(device: torch.device, pixels: float, threads: int = 1) -> int:
    """Frames of so many pixels that go through together where there is memory to spare."""
    if device.type != "cpu":
        return MOST_FRAMES.get(device.type, 2)
    if pixels <= SMALL_PIXELS:
        return MOST_SMALL_FRAMES
    if threads == 1:
        return MOST_FRAMES["cpu"]
    return max(MOST_FRAMES["cpu"], min(MOST_SHARED_FRAMES, int(SHARED_PIXELS / pixels)))


def pooled_frames(device: torch.device, config: EvalConfig) -> int:
    """Frames of a chunk that are summed up together: the same for any number of threads, so that
    results depend on it only where those of single operators do."""
    return most_frames(device, _pixels(config))


def _pixels(config: EvalConfig) -> float:
    """Of a frame of 16:9."""
    return config.short_side * config.short_side * 16 / 9


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device; 4 GiB where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # The allocator keeps what has been freed for later, and the driver counts it as used.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 4 << 30
    line = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return 4 << 30 if line is None else int(line.split()[1]) << 10
