"""Where 8-bit integers can be had, and what the rest of a model is computed in beside them."""

from __future__ import annotations

import torch

from seqformer.model.int8_layers import has_int8_layers
from seqformer.model.int8_products import why_not_available
from seqformer.model.packed_convolution import can_pack
from seqformer.model.seqformer import SeqFormer


def check_int8(model: SeqFormer, device: torch.device, is_compiled: bool = False) -> None:
    """Refuse what integers cannot do, or would not make faster. Raises: ValueError."""
    reason = "it is for CPUs" if device.type != "cpu" else why_not_available()
    if reason is None and is_compiled:
        reason = "it cannot be compiled"
    if reason is None and not has_int8_layers(model, rest_of_int8()):
        config = model.config
        reason = f"no layer of {config.backbone} with {config.hidden_dim} channels gains"
    if reason is not None:
        raise ValueError(f"precision int8 cannot be had: {reason}; take fp32 or bf16")


def rest_of_int8() -> torch.dtype:
    """What is not integers: bfloat16 where the CPU multiplies it much faster, with AMX."""
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    is_fast = has_amx is not None and has_amx() and can_pack(torch.bfloat16)
    return torch.bfloat16 if is_fast else torch.float32
