"""A model made ready to run many frames: norms folded for good, half precision, weights packed.

Training folds the frozen batch norms into its convolutions anew in every step, because the
convolutions change; at inference once is enough. In half precision the per-frame part that costs
time (backbone, encoder, mask branch, attention and feed-forward of the box queries) is half;
whatever decides where an object is stays float32: where box queries look, references, boxes, time
weights and their sums, mask parameters (which multiply pixel coordinates), and the whole instance
stream, which runs once. The encoder's offsets are half: a few hundredths of a cell. bfloat16 has so
few digits that residual sums are float32 too there, and weights are rounded in balance
(`balanced_rounding`).

On a CPU convolutions are packed (`packed_convolution.py`): in bfloat16 for oneDNN, in float32 as
split products, which linear layers in float32 then are too. With ranges of its numbers, a part of
the model runs on 8-bit integers (`int8_layers.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn

from .attention import QuerySelfAttention
from .balanced_rounding import to_bfloat16
from .decoder import DecoderLayer
from .int8_layers import put_int8_layers
from .int8_ranges import Int8Ranges
from .linear import SplitParameter
from .packed_convolution import can_pack, pack_convolutions
from .resnet import FrozenBatchNorm2d, fold_frozen_norms
from .seqformer import SeqFormer


def inference_copy(
    model: SeqFormer,
    dtype: torch.dtype = torch.float32,
    packs: bool = False,
    ranges: Int8Ranges | None = None,
) -> SeqFormer:
    """A model with the same results for inference only.

    Args:
        model: left as it is. Weights that need no change are shared with the copy, so it must not
            be trained while the copy is in use.
        dtype: float32, bfloat16 or float16.
        packs: where the model is on a CPU and its type allows it, pack convolutions and linear
            layers: faster, and a form that can be neither exported nor moved.
        ranges: of this model on a CPU with 8-bit products: what gains by it runs on integers, the
            rest in `dtype`.

    Returns: the copy in eval mode; `model` itself, in eval mode, where there is nothing to change.
    """
    model = model.eval()
    has_frozen_norms = any(isinstance(m, FrozenBatchNorm2d) for m in model.modules())
    first = next(model.parameters(), None)
    packs = packs and first is not None and first.device.type == "cpu" and can_pack(dtype)
    is_plain = dtype == torch.float32 and not packs and ranges is None
    if not has_frozen_norms and is_plain:
        return model
    shared: dict[int, Tensor] = {id(t): t for t in chain(model.parameters(), model.buffers())}
    copy = deepcopy(model, shared)
    fold_frozen_norms(copy)
    if ranges is not None:
        put_int8_layers(copy, ranges.places, dtype)
    if dtype != torch.float32:
        _narrow(copy, dtype)
    if packs:
        pack_convolutions(copy)
        if can_pack(torch.float32):
            _split_linears(copy)
    return copy


def _split_linears(model: SeqFormer) -> None:
    """Replace the float32 weights of linear layers by split ones; shared tensors stay untouched."""
    pays = SplitParameter.pays_for
    for module in model.modules():
        if isinstance(module, nn.Linear) and pays(module.weight):
            module.weight = SplitParameter.of(module.weight)
        elif isinstance(module, QuerySelfAttention) and pays(module.in_proj_weight):
            dim = module.in_proj_weight.shape[1]
            qk, v = module.in_proj_weight.split([2 * dim, dim])
            module.split_weights = (SplitParameter.of(qk), SplitParameter.of(v))


def _narrow(model: SeqFormer, dtype: torch.dtype) -> None:
    """Replace the weights of the per-frame part by `dtype` ones; shared tensors stay untouched."""
    modules = [*_wide_modules(model), *(_sums(model) if dtype == torch.bfloat16 else ())]
    wide = {id(parameter) for module in modules for parameter in module.parameters()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in wide:
                is_rough = dtype == torch.bfloat16
                narrowed = to_bfloat16(parameter) if is_rough else parameter.detach().to(dtype)
                module.register_parameter(name, nn.Parameter(narrowed, requires_grad=False))


def _wide_modules(model: SeqFormer) -> Iterator[nn.Module]:
    yield from (model.query_embed, model.reference_points, model.class_embed, model.controller)
    yield model.decoder.bbox_embed
    for layer in model.decoder.layers:
        assert isinstance(layer, DecoderLayer)
        yield from (layer.self_attn, layer.norm1, layer.norm2, layer.ffn)
        yield from (layer.cross_attn.output_proj, layer.time_attention_weights)
        yield from (layer.cross_attn.sampling_offsets, layer.cross_attn.attention_weights)


def _sums(model: SeqFormer) -> Iterator[nn.Module]:
    """The norms that residual sums go through, so that these are in their precision."""
    for part in (model.backbone, model.encoder, model.decoder):
        yield from (module for module in part.modules() if isinstance(module, nn.LayerNorm))
