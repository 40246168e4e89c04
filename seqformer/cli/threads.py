"""How long an idle thread of OpenMP loops before it sleeps; to be said before torch loads.

GNU's OpenMP, which PyTorch's builds for Linux bring, lets a thread without work loop 300,000 times,
about ten milliseconds, whenever cores are free in its own count. Where other programs want the
cores, all of that is taken from the thread that is waited for: a small model ran 13 times as long
on two busy cores as with short waits. The gaps between two operators are shorter than `SPINS`.
"""

from __future__ import annotations

import os

SPINS = "2000"
_SAID_OTHERWISE = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_briefly() -> None:
    """Let threads of this process and its children wait briefly, unless the user says otherwise."""
    if not any(name in os.environ for name in _SAID_OTHERWISE):
        os.environ["GOMP_SPINCOUNT"] = SPINS
