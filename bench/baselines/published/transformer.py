"""Backbone, encoder and decoder as the published code runs them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqformer.model import SeqFormer
from seqformer.model.decoder import DecoderLayer, inverse_sigmoid
from seqformer.model.encoder import EncoderLayer
from seqformer.model.padding import level_mask, valid_ratio
from seqformer.model.position_encoding import encoder_reference_points, sine_position
from seqformer.model.resnet import Bottleneck, FrozenBatchNorm2d, ResNet

from .attention import Shapes, masked_value, sample_frames, self_attention
from .linear import feed_forward, linear


@dataclass
class Stages:
    """What the transformer leaves behind.

    Attributes:
        memory: [B, T, S, C].
        shapes: L pairs (h, w).
        instances: per layer [B, Q, C].
        boxes: per layer [B, T, Q, C], box queries.
        references: per layer [B, T, Q, 2 or 4], what entered it.
    """

    memory: Tensor
    shapes: Shapes
    instances: list[Tensor]
    boxes: list[Tensor]
    references: list[Tensor]


def transform(model: SeqFormer, images: Tensor, padding_mask: Tensor | None) -> Stages:
    """Backbone, pyramid, encoder, decoder."""
    B, T, _, H, W = images.shape
    dim = model.config.hidden_dim
    samples = images.new_zeros(B * T, 3, H, W)
    padding_mask = images.new_zeros(B, H, W).bool() if padding_mask is None else padding_mask
    frame_mask = torch.ones(B * T, H, W, dtype=torch.bool, device=images.device)
    for index, frame in enumerate(images.flatten(0, 1)):
        samples[index].copy_(frame)
        frame_mask[index].copy_(padding_mask[index // T])

    features = backbone_maps(model.backbone, samples)[1:]
    maps = [project(x) for project, x in zip(model.input_proj, features, strict=False)]
    extra = features[-1]
    for project in model.input_proj[len(features) :]:
        extra = project(extra)
        maps.append(extra)
    shapes = [(m.shape[2], m.shape[3]) for m in maps]
    masks = [level_mask(frame_mask, shape) for shape in shapes]
    position = torch.cat(
        [
            sine_position(mask, dim).flatten(2).transpose(1, 2).unflatten(0, (B, T))
            + model.level_embed[level]
            for level, mask in enumerate(masks)
        ],
        dim=2,
    )  # [B, T, S, C]
    tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
    tokens = tokens.unflatten(0, (B, T))
    padding = torch.cat([mask.flatten(1) for mask in masks], dim=1).unflatten(0, (B, T))
    ratios = torch.stack([valid_ratio(mask[::T]) for mask in masks], dim=1)  # [B, L, 2]

    reference = encoder_reference_points(shapes, ratios)  # [B, S, L, 2]
    for layer in model.encoder.layers:
        tokens = encoder_layer(layer, tokens, position, reference, shapes, padding)
    return decode(model, tokens, shapes, padding, ratios)


def encoder_layer(
    layer: EncoderLayer,
    tokens: Tensor,
    position: Tensor,
    reference: Tensor,
    shapes: Shapes,
    padding: Tensor,
) -> Tensor:
    """tokens, position [B, T, S, C], reference [B, S, L, 2], padding [B, T, S] -> [B, T, S, C]."""
    attention = layer.self_attn
    value = masked_value(attention, tokens, padding)
    sampled = sample_frames(attention, tokens + position, reference, value, shapes)
    return feed_forward(layer.ffn, layer.norm1(tokens + linear(attention.output_proj, sampled)))


def backbone_maps(backbone: nn.Module, x: Tensor) -> list[Tensor]:
    """Four maps; a ResNet's frozen batch norms as separate passes, other networks as they are."""
    if not isinstance(backbone, ResNet):
        return backbone(x)
    x = _frozen_norm(backbone.conv1(x), backbone.bn1).relu_()
    x = F.max_pool2d(x, 3, 2, 1)
    maps = []
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        for block in stage:
            x = bottleneck(block, x)
        maps.append(x)
    return maps


def bottleneck(block: Bottleneck, x: Tensor) -> Tensor:
    """A block with its frozen batch norms as passes of their own."""
    y = _frozen_norm(block.conv1(x), block.bn1).relu_()
    y = _frozen_norm(block.conv2(y), block.bn2).relu_()
    y = _frozen_norm(block.conv3(y), block.bn3)
    if block.downsample is not None:
        conv, norm = block.downsample
        x = _frozen_norm(conv(x), norm)
    y += x
    return y.relu_()


def _frozen_norm(x: Tensor, norm: FrozenBatchNorm2d) -> Tensor:
    scale, shift = norm.scale_shift()
    return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def decode(
    model: SeqFormer, memory: Tensor, shapes: Shapes, padding: Tensor, ratios: Tensor
) -> Stages:
    """memory [B, T, S, C], padding [B, T, S], ratios [B, L, 2] -> all decoder layers."""
    B, T = memory.shape[:2]
    position, content = (
        part.expand(B, -1, -1) for part in model.query_embed.weight.chunk(2, dim=1)
    )
    reference = model.reference_points(position).sigmoid()[:, None].repeat(1, T, 1, 1)
    instance = box = content  # no frame axis before the first layer
    stages = Stages(memory, shapes, [], [], [])
    for index, layer in enumerate(model.decoder.layers):
        repeats = reference.shape[-1] // 2
        level_ratios = torch.cat([ratios] * repeats, dim=-1)[:, None, None]  # [B, 1, 1, L, 2|4]
        level_reference = reference[:, :, :, None] * level_ratios
        stages.references.append(reference)
        instance, box = decoder_layer(
            layer, instance, box, position, level_reference, memory, shapes, padding
        )
        delta = model.decoder.bbox_embed[index](box)
        reference = refine(delta, inverse_sigmoid(reference)).detach()
        stages.instances.append(instance)
        stages.boxes.append(box)
    stages.instances = list(torch.stack(stages.instances))
    stages.boxes = list(torch.stack(stages.boxes))
    return stages


def refine(delta: Tensor, prior: Tensor) -> Tensor:
    """Box head output, changed in place, and logit of a point or box -> box."""
    delta[..., : prior.shape[-1]] += prior
    return delta.sigmoid()


def decoder_layer(
    layer: DecoderLayer,
    instance: Tensor,
    box: Tensor,
    position: Tensor,
    reference: Tensor,
    memory: Tensor,
    shapes: Shapes,
    padding: Tensor,
) -> tuple[Tensor, Tensor]:
    """instance [B, Q, C], box [B, Q, C] or [B, T, Q, C] -> [B, Q, C], [B, T, Q, C]."""

    def attend_box(x: Tensor) -> Tensor:
        return layer.norm2_box(x + self_attention(layer.self_attn_box, x, position))

    instance = layer.norm2(instance + self_attention(layer.self_attn, instance, position))
    if box.dim() == 3:
        box = attend_box(box)
        query, residual = box + position, box[:, None]
    else:
        box = torch.cat([attend_box(box[:, t])[:, None] for t in range(box.shape[1])], dim=1)
        query, residual = box + position[:, None], box
    attention = layer.cross_attn
    value = masked_value(attention, memory, padding)
    sampled = sample_frames(attention, query, reference, value, shapes)  # [B, T, Q, C]
    for_instance = linear(attention.output_proj, sampled)
    for_box = linear(attention.output_proj_box, sampled)
    box = feed_forward(layer.ffn_box, layer.norm1_box(residual + for_box))
    time_weights = layer.time_attention_weights(box).softmax(dim=1)
    pooled = (time_weights * for_instance).sum(1)
    return feed_forward(layer.ffn, layer.norm1(instance + pooled)), box
