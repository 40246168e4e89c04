"""Seeded damage to bytes, JSON values and pickles."""

from __future__ import annotations

import copy
import json
import pickletools
import random
from typing import Any

SPECIAL = (
    *(None, True, False, 0, 1, -1, 2**31, 2**32, 2**63, 2**64, -(2**63) - 1, 1e300, -0.0, 0.5),
    *(float("nan"), float("inf"), -float("inf"), "", "a", "0", "\0", "\ud800", "é" * 40, [], {}),
    *([[]], [None], [0], {"size": [3, 4]}, {"size": [32, 64], "counts": "0"}, "../../etc/passwd"),
    *("/dev/zero", "o\0" + "1" * 500, "P" * 50, [[0, 0, 1e6, 1e6, -1e6, 3]], [[1] * 5], "04" * 99),
)


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, insert, repeat or zero some bytes."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not made:
            break
        at = rng.randrange(len(made))
        length = min(rng.choice((1, 1, 2, 4, 16, 200, 2000)), len(made) - at)
        kind = rng.randrange(8)
        if kind < 2:
            made[at] = rng.randrange(256)
        elif kind == 2:
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            del made[at:]
        elif kind == 4:
            made[at : at + length] = bytes(length)
        elif kind == 5:
            made[at : at + length] = rng.randbytes(length)
        elif kind == 6:
            made[at:at] = made[at : at + length]
        else:
            size = min(rng.choice((2, 4, 8)), len(made) - at)
            value = rng.choice((0, 1, 0x7F, 0xFF))
            made[at : at + size] = bytes([value]) * size
    return bytes(made)


def opcodes(rng: random.Random) -> bytes:
    """A pickle program that makes no sense."""
    codes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    steps = (rng.choice(codes) + rng.randbytes(rng.choice((0, 0, 1, 2, 4))) for _ in range(30))
    return b"\x80\x02" + b"".join(list(steps)[: rng.randint(1, 30)])


def damage_value(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value in which one to three places were changed."""
    made = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        inner, path = made, []
        while isinstance(inner, dict | list) and inner and (not path or rng.random() < 0.85):
            key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
            path.append((inner, key))
            inner = inner[key]
        if not path:
            return rng.choice(SPECIAL)
        parent, key = path[-1]
        kind = rng.randrange(6)
        if kind == 0 and isinstance(parent, dict):
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(inner))
        elif kind == 2 and isinstance(inner, int | float) and not isinstance(inner, bool):
            parent[key] = inner * rng.choice((-1, 0, 2, 1000, 2**31, 0.37))
        elif kind == 3 and isinstance(inner, str) and inner:
            parent[key] = damage_bytes(inner.encode("latin-1", "replace"), rng).decode("latin-1")
        else:
            parent[key] = copy.deepcopy(rng.choice(SPECIAL))
    return made


def to_text(value: Any) -> bytes:
    """JSON as a careless program writes it."""
    return json.dumps(value).encode()
