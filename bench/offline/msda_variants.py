"""The forms in which the kernels of deformable attention are compiled: the model's, and others."""

from __future__ import annotations

from typing import Any

import torch

from kernels.deformable_attention import launch, launch_merged, tiles
from kernels.launch import Case, entry_for, table_capability

OTHER_SIZES = (
    (16, 4, 4),
    (24, 4, 4),
    (64, 4, 4),
    (32, 1, 4),
    (32, 3, 4),
    (32, 5, 4),
    (32, 4, 1),
    (32, 4, 8),
)
"""D, L, P of other models."""

_REAL, _INTEGER = torch.float32, torch.int32


def attention_cases(capability: int) -> list[Case]:
    """Every launch of the model on a GPU of this compute capability, and those of other models."""
    others = [
        _case(capability, direction, torch.float32, 2, D=D, L=L, P=P)
        for direction in ("forward", "backward")
        for D, L, P in OTHER_SIZES
    ]
    return [*_model_cases(capability), *others, *merged_cases(capability)]


def merged_cases(capability: int) -> list[Case]:
    """Of the backward of an encoder layer, where its adds are merged."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    config = entry_for(tiles.MERGED, capability)
    if config is None:
        return []

    def cases(numbers: int | None, D: int, L: int, P: int) -> list[Case]:
        is_model = (numbers, D, L, P) == (2, 32, 4, 4)
        name = {None: "locations", 2: "points", 4: "boxes"}[numbers]
        name += "" if (D, L, P) == (32, 4, 4) else f" D{D} L{L} P{P}"
        sizes = _sizes(numbers, D, L, P)
        arguments = _arguments(torch.float32, L) | {"first_image": 1}
        arguments |= dict.fromkeys(("counts", "records"), _INTEGER)
        arguments |= dict.fromkeys(("ranks", "grad_value", "grad_points", "grad_weights"), _REAL)
        made = [
            Case(
                name=f"msda merged {kind} float32 {name}",
                variant=make(arguments, sizes, config),
                is_model=is_model,
            )
            for kind, make in (
                ("count", launch_merged.count_variant),
                ("offset", launch_merged.offset_variant),
                ("scatter", launch_merged.scatter_variant),
            )
        ]
        for dtype in dtypes if is_model else (torch.float32,):
            given = arguments | {"value": dtype, "grad_output": dtype}
            made.append(
                Case(
                    name=f"msda merged adds {str(dtype).removeprefix('torch.')} {name}",
                    variant=launch_merged.merge_variant(given, sizes, config),
                    is_model=is_model,
                )
            )
        if numbers is not None:
            variant = launch_merged.softmax_variant(arguments | {"rows": 1}, sizes, config)
            case = Case(name=f"msda merged softmax float32 {name}", variant=variant)
            made.append(case)
        return made

    model = cases(2, 32, 4, 4)
    others = [case for numbers in (None, 4) for case in cases(numbers, 32, 4, 4)[:-1]]
    wide = cases(2, 64, 4, 4)[3:4] + cases(2, 32, 5, 4)[3:4]
    return [*model, *others, *wide]


def _model_cases(capability: int) -> list[Case]:
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    cases = [
        _case(capability, direction, dtype, numbers)
        for direction in ("forward", "backward")
        for dtype in dtypes
        for numbers in (None, 2, 4)
    ]
    # The first decoder layer trains its reference points; the deterministic mode.
    cases.append(_case(capability, "backward", torch.float32, 2, needs_reference=True))
    cases.append(_case(capability, "backward", torch.float32, 2, is_deterministic=True))
    return cases


def _case(
    capability: int,
    direction: str,
    dtype: torch.dtype,
    numbers: int | None,
    *,
    D: int = 32,
    L: int = 4,
    P: int = 4,
    needs_reference: bool = False,
    is_deterministic: bool = False,
) -> Case:
    """A layer's launch, offline."""
    name = f"msda {direction} {str(dtype).removeprefix('torch.')} "
    name += {None: "locations", 2: "points", 4: "boxes"}[numbers]
    name += " reference" * needs_reference + " deterministic" * is_deterministic
    is_model = (D, L, P) == (32, 4, 4)
    if not is_model:
        name += f" D{D} L{L} P{P}"
    arguments, sizes = _arguments(dtype, L), _sizes(numbers, D, L, P)
    if direction == "forward":
        config = tiles.FORWARD[table_capability(capability)]
        return Case(
            name=name,
            variant=launch.forward_variant(arguments | {"output": dtype}, sizes, config),
            is_model=is_model,
        )
    arguments |= {"grad_output": dtype, "fixed_scale": _REAL}
    arguments |= {"grad_value": torch.int64 if is_deterministic else _REAL}
    arguments |= dict.fromkeys(("grad_points", "grad_weights", "grad_reference"), _REAL)
    flags = {"NEEDS_VALUE": True, "NEEDS_SAMPLES": True, "NEEDS_REFERENCE": needs_reference}
    entry = table_capability(capability)
    config = tiles.BACKWARD[min(entry, 80) if is_deterministic else entry]
    sizes = sizes | flags | {"DETERMINISTIC": is_deterministic}
    variant = launch.backward_variant(arguments, sizes, config)
    return Case(name=name, variant=variant, is_model=is_model)


def _arguments(dtype: torch.dtype, L: int) -> dict[str, Any]:
    """Of every kernel."""
    arguments: dict[str, Any] = dict.fromkeys(
        ("Q", "S", "share_points", "share_reference", "share_valid"), 1
    )
    arguments |= {"value": dtype, "valid": _INTEGER, "levels": (1,) * 3 * L}
    return arguments | dict.fromkeys(("points", "weights", "reference"), _REAL)


def _sizes(numbers: int | None, D: int, L: int, P: int) -> dict[str, Any]:
    """Constants of a layer with eight heads; with references, padding is known, too."""
    return launch._sizes(launch._Form(8, D, L, P, numbers, numbers is not None, False, False))
