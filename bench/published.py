"""The published formulation of SeqFormer, on our modules' weights: the baseline of the benchmarks.

It computes what `SeqFormer` and `SetCriterion` compute, in the order of the original code and with
its intermediate tensors: frames one after another in deformable attention and in the box queries'
self-attention; every level sampled, stacked and only then weighted; frozen batch norm as a pass of
its own; the box heads twice; mask branch and dynamic mask head anew for every decoder layer and
frame; at inference the masks of all queries in all layers; in training matching and target masks
once per layer. What the original computes and never uses is left out. Letters as in `structures`;
M heads, P points, G generated mask-head weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from seqformer.boxes import cxcywh_to_xyxy, generalized_box_iou
from seqformer.config import LossConfig
from seqformer.criterion.losses import sigmoid_focal
from seqformer.model import SeqFormer
from seqformer.model.attention import MSDeformAttn, QuerySelfAttention
from seqformer.model.blocks import FeedForward
from seqformer.model.decoder import DecoderLayer, inverse_sigmoid
from seqformer.model.masks import MASK_CHANNELS, MaskBranch
from seqformer.model.position import (
    encoder_reference_points,
    level_mask,
    sine_position,
    valid_ratio,
)
from seqformer.model.resnet import Bottleneck, FrozenBatchNorm2d, ResNet
from seqformer.structures import ClipTargets

Shapes = list[tuple[int, int]]
ClipMatch = tuple[Tensor, Tensor]
"""(query, instance) of the matched pairs of a clip, both [n]."""


def published_training_losses(
    model: SeqFormer,
    images: Tensor,
    padding_mask: Tensor | None,
    targets: list[ClipTargets],
) -> dict[str, Tensor]:
    """What `seqformer.criterion.training_losses` returns, the published way.

    Args:
        model: its configuration must have no dropout, which would be drawn in another order.
        images: [B, T, 3, H, W] normalised, zero where padded.
        padding_mask: [B, H, W] bool, True on padding, or None.
        targets: one per clip.

    Raises: ValueError when the model has dropout.
    """
    _check_deterministic(model)
    B, T = images.shape[:2]
    stages = _transform(model, images, padding_mask)
    config = LossConfig()
    predictions = []
    for layer in range(len(stages.instances)):
        prediction = _heads(model, stages, layer)
        matches = _match(config, prediction.class_logits, prediction.boxes, targets)
        counts = [len(query) for query, _ in matches]
        clips = range(B)
        params = torch.cat([prediction.mask_params[b, matches[b][0]] for b in clips])
        # The reference is scaled by the clip's own size, before padding.
        sizes = [images.new_tensor([t["size"][1], t["size"][0]]) for t in targets]
        points_px = torch.cat(
            [prediction.points[b][:, matches[b][0]] * sizes[b] for b in clips], dim=1
        )  # [T, N, 2]
        coarse_to_fine = _mask_levels(stages)
        frames = []
        for t in range(T):
            features = _mask_features(model.mask_branch, coarse_to_fine, t)
            frames.append(dynamic_masks(features, params, points_px[t], counts, model.mask_stride))
        masks = torch.stack(frames, dim=1).split(counts)  # per clip [n, T, h4, w4]
        predictions.append((prediction, matches, masks))

    num_instances = max(sum(len(t["labels"]) for t in targets), 1)
    order = [len(predictions) - 1, *range(len(predictions) - 1)]
    losses = {}
    for layer in order:
        is_last = layer == order[0]
        layer_losses = _layer_losses(config, *predictions[layer], targets, model.mask_stride)
        suffix = "" if is_last else f"_{layer}"
        losses |= {f"{k}{suffix}": v / num_instances for k, v in layer_losses.items()}
        prediction, matches, _ = predictions[layer]
        logs = _log_values(prediction.class_logits, matches, targets)
        losses[f"cardinality_error{suffix}"] = logs["cardinality_error"]
        if is_last:
            losses["class_error"] = logs["class_error"]
    return losses


@torch.no_grad()
def published_inference(model: SeqFormer, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All queries of one video, masks included, in all layers; the last layer is returned.

    Args:
        model: without dropout or in evaluation mode.
        images: [1, T, 3, H, W] normalised.

    Returns: class_logits [Q, K], boxes [T, Q, 4] and mask logits [Q, T, h4, w4].
    """
    _check_deterministic(model)
    T, _, H, W = images.shape[1:]
    stages = _transform(model, images, None)
    layers = []
    for layer in range(len(stages.instances)):
        prediction = _heads(model, stages, layer)
        points_px = prediction.points[0] * images.new_tensor([W, H])  # [T, Q, 2]
        params = prediction.mask_params[0]
        coarse_to_fine = _mask_levels(stages)
        frames = []
        for t in range(T):
            features = _mask_features(model.mask_branch, coarse_to_fine, t)
            frames.append(
                dynamic_masks(features, params, points_px[t], [len(params)], model.mask_stride)
            )
        masks = torch.stack(frames, dim=1)
        layers.append((prediction.class_logits[0], prediction.boxes[0], masks))
    return layers[-1]


def _check_deterministic(model: SeqFormer) -> None:
    if model.training and (model.config.dropout or model.config.drop_path):
        raise ValueError(
            f"the published formulation is compared without dropout, but the model has dropout "
            f"{model.config.dropout} and drop_path {model.config.drop_path}; build it with 0"
        )


@dataclass
class _Stages:
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


@dataclass
class _Prediction:
    """One layer: class_logits [B, Q, K], boxes [B, T, Q, 4], mask_params [B, Q, G],
    points [B, T, Q, 2] in 0..1."""

    class_logits: Tensor
    boxes: Tensor
    mask_params: Tensor
    points: Tensor


def _transform(model: SeqFormer, images: Tensor, padding_mask: Tensor | None) -> _Stages:
    """Backbone, pyramid, encoder, decoder."""
    B, T, _, H, W = images.shape
    dim = model.config.hidden_dim
    samples = images.new_zeros(B * T, 3, H, W)
    padding_mask = images.new_zeros(B, H, W).bool() if padding_mask is None else padding_mask
    frame_mask = torch.ones(B * T, H, W, dtype=torch.bool, device=images.device)
    for index, frame in enumerate(images.flatten(0, 1)):
        samples[index].copy_(frame)
        frame_mask[index].copy_(padding_mask[index // T])

    features = _backbone(model.backbone, samples)[1:]
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
        attention = layer.self_attn
        value = _masked_value(attention, tokens, padding)
        sampled = _sample_frames(attention, tokens + position, reference, value, shapes)
        tokens = layer.norm1(tokens + _linear(attention.output_proj, sampled))
        tokens = _feed_forward(layer.ffn, tokens)
    return _decode(model, tokens, shapes, padding, ratios)


def _backbone(backbone: nn.Module, x: Tensor) -> list[Tensor]:
    """Four maps; a ResNet's frozen batch norms as separate passes, other networks as they are."""
    if not isinstance(backbone, ResNet):
        return backbone(x)
    x = _frozen_norm(backbone.conv1(x), backbone.bn1).relu_()
    x = F.max_pool2d(x, 3, 2, 1)
    maps = []
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        for block in stage:
            x = _bottleneck(block, x)
        maps.append(x)
    return maps


def _bottleneck(block: Bottleneck, x: Tensor) -> Tensor:
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


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def _feed_forward(block: FeedForward, x: Tensor) -> Tensor:
    hidden = _linear(block.linear1, x).relu()
    return block.norm(x + _linear(block.linear2, hidden))


def _masked_value(attention: MSDeformAttn, tokens: Tensor, padding: Tensor) -> Tensor:
    """[B, T, S, C] -> [B, T, S, M, D], zero where `padding` [B, T, S]."""
    value = _linear(attention.value_proj, tokens).masked_fill(padding[..., None], 0.0)
    return value.unflatten(-1, (attention.num_heads, -1))


def _sample_frames(
    attention: MSDeformAttn, query: Tensor, reference: Tensor, value: Tensor, shapes: Shapes
) -> Tensor:
    """Deformable attention, frame by frame; before any output projection.

    Args:
        attention: its linear layers see all frames at once.
        query: [B, T, Q, C], or [B, Q, C] where all frames share it.
        reference: [B, T, Q, L, 2 or 4], or [B, Q, L, 2] where all frames share it.
        value: [B, T, S, M, D].
        shapes: L pairs (h, w).

    Returns: [B, T, Q, C].
    """
    T = value.shape[1]
    M, L, P = attention.num_heads, attention.num_levels, attention.num_points
    offsets = attention.sampling_offsets(query).unflatten(-1, (M, L, P, 2))
    weights = attention.attention_weights(query).unflatten(-1, (M, L * P)).softmax(-1)
    weights = weights.unflatten(-1, (L, P))
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=value.dtype, device=value.device)

    def of_frame(tensor: Tensor, t: int, shared_dims: int) -> Tensor:
        return tensor if tensor.dim() == shared_dims else tensor[:, t].contiguous()

    values = [value[:, t].contiguous() for t in range(T)]
    frames = []
    for t in range(T):
        point = of_frame(reference, t, 4)[:, :, None, :, None]  # [B, Q, 1, L, 1, 2 or 4]
        offset = of_frame(offsets, t, 6)
        if point.shape[-1] == 2:
            locations = point + offset / sizes[:, None]
        else:
            locations = point[..., :2] + offset / P * point[..., 2:] * 0.5
        frames.append(sample_frame(values[t], shapes, locations, of_frame(weights, t, 5)))
    return torch.stack(frames, dim=1)


def sample_frame(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """value [B, S, M, D], locations [B, Q, M, L, P, 2], weights [B, Q, M, L, P] -> [B, Q, M*D]."""
    B, _, M, D = value.shape
    Q = locations.shape[1]
    grids = 2 * locations - 1
    samples = []
    for level, (tokens, (h, w)) in enumerate(
        zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
    ):
        feature = tokens.flatten(2).transpose(1, 2).reshape(B * M, D, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # [B*M, Q, P, 2]
        samples.append(F.grid_sample(feature, grid, align_corners=False))
    stacked = torch.stack(samples, dim=-2).flatten(-2)  # [B*M, D, Q, L*P]
    weights = weights.transpose(1, 2).reshape(B * M, 1, Q, -1)
    blended = (stacked * weights).sum(-1).view(B, M * D, Q)
    return blended.transpose(1, 2).contiguous()


def _decode(
    model: SeqFormer, memory: Tensor, shapes: Shapes, padding: Tensor, ratios: Tensor
) -> _Stages:
    B, T = memory.shape[:2]
    position, content = (
        part.expand(B, -1, -1) for part in model.query_embed.weight.chunk(2, dim=1)
    )
    reference = model.reference_points(position).sigmoid()[:, None].repeat(1, T, 1, 1)
    instance = box = content  # no frame axis before the first layer
    stages = _Stages(memory, shapes, [], [], [])
    for index, layer in enumerate(model.decoder.layers):
        repeats = reference.shape[-1] // 2
        level_ratios = torch.cat([ratios] * repeats, dim=-1)[:, None, None]  # [B, 1, 1, L, 2|4]
        level_reference = reference[:, :, :, None] * level_ratios
        stages.references.append(reference)
        instance, box = _decoder_layer(
            layer, instance, box, position, level_reference, memory, shapes, padding
        )
        delta = model.decoder.bbox_embed[index](box)
        reference = _refine(delta, inverse_sigmoid(reference)).detach()
        stages.instances.append(instance)
        stages.boxes.append(box)
    stages.instances = list(torch.stack(stages.instances))
    stages.boxes = list(torch.stack(stages.boxes))
    return stages


def _refine(delta: Tensor, prior: Tensor) -> Tensor:
    """Box head output, changed in place, and logit of a point or box -> box."""
    delta[..., : prior.shape[-1]] += prior
    return delta.sigmoid()


def _decoder_layer(
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
        return layer.norm2_box(x + _self_attention(layer.self_attn_box, x, position))

    instance = layer.norm2(instance + _self_attention(layer.self_attn, instance, position))
    if box.dim() == 3:
        box = attend_box(box)
        query, residual = box + position, box[:, None]
    else:
        box = torch.cat([attend_box(box[:, t])[:, None] for t in range(box.shape[1])], dim=1)
        query, residual = box + position[:, None], box
    attention = layer.cross_attn
    value = _masked_value(attention, memory, padding)
    sampled = _sample_frames(attention, query, reference, value, shapes)  # [B, T, Q, C]
    for_instance = _linear(attention.output_proj, sampled)
    for_box = _linear(attention.output_proj_box, sampled)
    box = _feed_forward(layer.ffn_box, layer.norm1_box(residual + for_box))
    time_weights = layer.time_attention_weights(box).softmax(dim=1)
    pooled = (time_weights * for_instance).sum(1)
    return _feed_forward(layer.ffn, layer.norm1(instance + pooled)), box


def _self_attention(attention: QuerySelfAttention, x: Tensor, position: Tensor) -> Tensor:
    """[B, Q, C], as `nn.MultiheadAttention` does it when asked for the attention weights too."""
    query = (x + position).transpose(0, 1)
    attended, _ = F.multi_head_attention_forward(
        query,
        query,
        x.transpose(0, 1),
        embed_dim_to_check=x.shape[-1],
        num_heads=attention.num_heads,
        in_proj_weight=attention.in_proj_weight,
        in_proj_bias=attention.in_proj_bias,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=attention.out_proj.weight,
        out_proj_bias=attention.out_proj.bias,
        need_weights=True,
    )
    return attended.transpose(0, 1)


def _heads(model: SeqFormer, stages: _Stages, layer: int) -> _Prediction:
    prior = inverse_sigmoid(stages.references[layer])
    instance = stages.instances[layer]
    return _Prediction(
        class_logits=model.class_embed[layer](instance),
        boxes=_refine(model.decoder.bbox_embed[layer](stages.boxes[layer]), prior),
        mask_params=model.controller(instance),
        points=prior[..., :2].sigmoid(),
    )


def _mask_levels(stages: _Stages) -> list[Tensor]:
    """Views of the three finest levels of the memory, coarsest first, [B, C, T, h, w] each."""
    levels = stages.memory.split([h * w for h, w in stages.shapes], dim=2)[:3]
    return [
        tokens.unflatten(2, shape).permute(0, 4, 1, 2, 3)
        for tokens, shape in zip(levels, stages.shapes, strict=False)
    ][::-1]


def _mask_features(branch: MaskBranch, coarse_to_fine: list[Tensor], frame: int) -> Tensor:
    """[B, 8, h, w] of one frame."""
    coarse, middle, fine = (level[:, :, frame] for level in coarse_to_fine)
    x = F.relu(branch.lay3(coarse))
    x = F.relu(branch.lay4(middle + F.interpolate(x, size=middle.shape[-2:])))
    x = F.relu(branch.dcn(fine + F.interpolate(x, size=fine.shape[-2:])))
    x = F.relu(branch.lay1(x))
    return F.relu(branch.lay2(x))


def dynamic_masks(
    features: Tensor, params: Tensor, points_px: Tensor, counts: list[int], stride: int
) -> Tensor:
    """Masks of one frame, by grouped convolutions with one group per instance.

    Args:
        features: [B, 8, h, w].
        params: [N, G].
        points_px: [N, 2].
        counts: instances per clip; their sum is N.
        stride: pixels per cell of `features`.

    Returns: [N, 2h, 2w].
    """
    N, (h, w) = len(params), features.shape[-2:]
    channels = MASK_CHANNELS
    if N == 0:
        # The grouped convolution needs a group; an empty sum keeps the result in the graph.
        return features.new_zeros(0, 2 * h, 2 * w) + 0 * (features.sum() + params.sum())
    x, y = (torch.arange(n, device=features.device) * stride + stride // 2 for n in (w, h))
    row, column = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([column, row], dim=-1)  # [h, w, 2]
    relative = points_px[:, None, None] - centres
    relative = relative.permute(0, 3, 1, 2).flatten(2)  # [N, 2, h*w]
    repeated = torch.cat(
        [clip.flatten(1).repeat(n, 1, 1) for clip, n in zip(features, counts, strict=True)]
    )  # [N, 8, h*w]
    z = torch.cat([relative, repeated], dim=1).reshape(1, -1, h, w)
    w0, w1, w2, b0, b1, b2 = params.split([80, 64, 8, 8, 8, 1], dim=1)
    z = F.conv2d(z, w0.reshape(-1, channels + 2, 1, 1), b0.flatten(), groups=N).relu()
    z = F.conv2d(z, w1.reshape(-1, channels, 1, 1), b1.flatten(), groups=N).relu()
    z = F.conv2d(z, w2.reshape(-1, channels, 1, 1), b2.flatten(), groups=N)
    return _upsample(z.view(N, 1, h, w))[:, 0]


def _upsample(z: Tensor) -> Tensor:
    """[N, 1, h, w] -> [N, 1, 2h, 2w]: pad, resize with aligned corners, pad, crop."""
    h, w = z.shape[-2:]
    z = F.pad(z, (0, 1, 0, 1), mode="replicate")
    z = F.interpolate(z, size=(2 * h + 1, 2 * w + 1), mode="bilinear", align_corners=True)
    z = F.pad(z, (1, 0, 1, 0), mode="replicate")
    return z[..., : 2 * h, : 2 * w]


@torch.no_grad()
def _match(
    config: LossConfig, class_logits: Tensor, boxes: Tensor, targets: list[ClipTargets]
) -> list[ClipMatch]:
    """Assignment of one layer; class_logits [B, Q, K], boxes [B, T, Q, 4]."""
    B, T, Q, _ = boxes.shape
    labels = torch.cat([t["labels"] for t in targets])
    wanted = torch.cat([t["boxes"] for t in targets])  # [N, T, 4]
    prob = class_logits.flatten(0, 1).sigmoid()  # [B*Q, K]
    alpha, gamma = config.focal_alpha, config.focal_gamma
    negative = (1 - alpha) * prob**gamma * -(1 - prob + 1e-8).log()
    positive = alpha * (1 - prob) ** gamma * -(prob + 1e-8).log()
    class_cost = positive[:, labels] - negative[:, labels]
    tracks = boxes.transpose(1, 2).flatten(0, 1)  # [B*Q, T, 4]
    box_cost = torch.cdist(tracks.flatten(1), wanted.flatten(1))
    overlap = torch.zeros_like(class_cost)
    for t in range(T):
        overlap += generalized_box_iou(
            cxcywh_to_xyxy(tracks[:, None, t]), cxcywh_to_xyxy(wanted[None, :, t])
        )
    cost = config.cost_box * box_cost + config.cost_class * class_cost
    cost = (cost - config.cost_giou * (overlap / T)).view(B, Q, -1).cpu()
    counts = [len(t["labels"]) for t in targets]
    pairs = [linear_sum_assignment(part[b]) for b, part in enumerate(cost.split(counts, dim=2))]
    return [
        tuple(torch.from_numpy(np.asarray(index)).to(boxes.device) for index in pair)
        for pair in pairs
    ]


def _layer_losses(
    config: LossConfig,
    prediction: _Prediction,
    matches: list[ClipMatch],
    masks: tuple[Tensor, ...],
    targets: list[ClipTargets],
    mask_stride: int,
) -> dict[str, Tensor]:
    """Sums over the instances of one layer, not yet normalised."""
    logits, boxes = prediction.class_logits, prediction.boxes
    B, Q, K = logits.shape
    T = boxes.shape[1]
    clip = torch.cat([torch.full_like(query, b) for b, (query, _) in enumerate(matches)])
    query = torch.cat([query for query, _ in matches])

    classes = torch.full((B, Q), K, device=logits.device)
    classes[clip, query] = torch.cat(
        [t["labels"][chosen] for t, (_, chosen) in zip(targets, matches, strict=True)]
    )
    one_hot = logits.new_zeros(B, Q, K + 1).scatter_(2, classes[..., None], 1)[..., :-1]
    class_loss = sigmoid_focal(logits, one_hot, config.focal_alpha, config.focal_gamma)

    matched = boxes.transpose(1, 2)[clip, query]  # [N, T, 4]
    wanted = torch.cat(
        [t["boxes"][chosen] for t, (_, chosen) in zip(targets, matches, strict=True)]
    )
    giou_loss = boxes.new_zeros(())
    for t in range(T):
        pairwise = generalized_box_iou(
            cxcywh_to_xyxy(matched[:, None, t]), cxcywh_to_xyxy(wanted[None, :, t])
        )
        giou_loss = giou_loss + (1 - pairwise.diagonal()).sum() / T

    mask_logits = torch.cat(masks)
    mask_targets = _mask_targets(targets, matches, mask_logits.shape[-2:], mask_stride // 2)
    mask_logits, mask_targets = mask_logits.flatten(1), mask_targets.flatten(1)
    focal = sigmoid_focal(mask_logits, mask_targets, config.focal_alpha, config.focal_gamma)
    return {
        "loss_ce": class_loss.mean(1).sum() * Q,
        "loss_bbox": (matched - wanted).abs().sum() / T,
        "loss_giou": giou_loss,
        "loss_mask": focal.mean(1).sum(),
        "loss_dice": _dice(mask_logits, mask_targets).sum(),
    }


def _dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Per row; logits, targets: [N, pixels]."""
    prob = logits.sigmoid()
    overlap = (prob * targets).sum(1)
    return 1 - (2 * overlap + 1) / (prob.sum(1) + targets.sum(1) + 1)


def _mask_targets(
    targets: list[ClipTargets], matches: list[ClipMatch], size: torch.Size, stride: int
) -> Tensor:
    """Matched target masks at the mask stride, [N, T, *size]: all are padded to a common size, made
    float, subsampled and then gathered."""
    H, W = (n * stride for n in size)
    flat = [t["masks"].flatten(0, 1) for t in targets]
    padded = torch.zeros(len(flat), max(map(len, flat)), H, W, dtype=torch.bool).to(flat[0].device)
    for masks, place in zip(flat, padded, strict=True):
        place[: masks.shape[0], : masks.shape[1], : masks.shape[2]].copy_(masks)
    sampled = padded.float()[:, :, stride // 2 :: stride, stride // 2 :: stride]
    return torch.cat(
        [
            place[: len(masks)].unflatten(0, target["masks"].shape[:2])[chosen]
            for place, masks, target, (_, chosen) in zip(
                sampled, flat, targets, matches, strict=True
            )
        ]
    )


@torch.no_grad()
def _log_values(
    class_logits: Tensor, matches: list[ClipMatch], targets: list[ClipTargets]
) -> dict[str, Tensor]:
    best = class_logits.argmax(-1)  # [B, Q]
    correct = torch.cat(
        [
            best[b, query] == target["labels"][chosen]
            for b, (target, (query, chosen)) in enumerate(zip(targets, matches, strict=True))
        ]
    )
    counted = (best != class_logits.shape[-1] - 1).sum(1).float()
    wanted = counted.new_tensor([len(t["labels"]) for t in targets])
    return {
        "class_error": 100 - 100 * correct.float().sum() / max(len(correct), 1),
        "cardinality_error": (counted - wanted).abs().mean(),
    }
