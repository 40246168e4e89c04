"""Blocks of the model on random inputs: our formulation and the published one on the same weights.

Each function makes a `Block` on a device; under `FakeTensorMode`, one without data, which is enough
to count FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from bench.baselines.published import losses as published_losses
from bench.baselines.published import masks as published_masks
from bench.baselines.published import transformer as published_transformer
from bench.suite.model_inputs import ModelSize, model_of, padding_and_targets
from seqformer.config import LossConfig
from seqformer.criterion import HungarianMatcher, SetCriterion
from seqformer.model import SeqFormer, TemporalPool
from seqformer.model.position_encoding import encoder_reference_points
from seqformer.model.resnet import ResNet
from seqformer.structures import ClipOutput

Run = Callable[[list[Tensor]], list[Tensor]]
STRIDES = (8, 16, 32, 64)
MASK_PARAMS = 169


@dataclass(frozen=True)
class Block:
    """Two formulations of one block.

    Attributes:
        inputs: what it sees and gives gradients to.
        ours, published: from the inputs to the outputs.
        parameters: that get a gradient too.
    """

    inputs: list[Tensor]
    ours: Run
    published: Run
    parameters: list[Tensor] = field(default_factory=list)

    def leaves(self) -> list[Tensor]:
        """New inputs that gradients are asked for."""
        return [tensor.detach().requires_grad_() for tensor in self.inputs]

    def seeds(self, outputs: list[Tensor]) -> list[Tensor]:
        """Random gradients of the outputs; under ones, a layer norm at the end gives none."""
        device = outputs[0].device
        generator = torch.Generator(device).manual_seed(4)
        return [
            torch.randn(out.shape, generator=generator, device=device).to(out.dtype)
            for out in outputs
        ]


class _Maker:
    """Random tensors and shapes of a size; the same numbers for every block of a size."""

    def __init__(self, size: ModelSize, device: torch.device) -> None:
        self.size, self.device, self.config = size, device, size.config
        self.generator = torch.Generator(device).manual_seed(3)
        self.B, self.T, self.C = size.clips, size.frames, size.config.hidden_dim
        self.shapes = [(-(-size.height // s), -(-size.width // s)) for s in STRIDES]
        self.S = sum(h * w for h, w in self.shapes)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        """In 0.2..0.8."""
        return 0.2 + 0.6 * torch.rand(shape, generator=self.generator, device=self.device)

    def model(self) -> SeqFormer:
        with unset_fake_temporarily():  # initial values cannot be drawn without data
            return model_of(self.size, self.device)

    def ratios(self) -> Tensor:
        """[B, L, 2]: nothing is padded."""
        return torch.ones(self.B, len(STRIDES), 2, device=self.device)

    def no_padding(self) -> Tensor:
        return torch.zeros(self.B, self.T, self.S, dtype=torch.bool, device=self.device)

    def memory(self) -> Tensor:
        return self.randn(self.B, self.T, self.S, self.C)


def encoder(size: ModelSize, device: torch.device, num_layers: int | None = None) -> Block:
    """One layer of the encoder, or all."""
    make = _Maker(size, device)
    layers = make.model().encoder.layers[:num_layers]
    position = 0.5 * make.randn(1, 1, make.S, make.C)
    reference = encoder_reference_points(make.shapes, make.ratios())
    padding = make.no_padding()

    def ours(leaves: list[Tensor]) -> list[Tensor]:
        (tokens,) = leaves
        for layer in layers:
            tokens = layer(tokens, position, reference[:, None], make.shapes, None)
        return [tokens]

    def published(leaves: list[Tensor]) -> list[Tensor]:
        (tokens,) = leaves
        everywhere = position.expand_as(tokens)
        for layer in layers:
            tokens = published_transformer.encoder_layer(
                layer, tokens, everywhere, reference, make.shapes, padding
            )
        return [tokens]

    return Block([make.memory()], ours, published, _trained(layers))


def decoder_layer(size: ModelSize, device: torch.device) -> Block:
    """Both streams of one layer after the first, with the pooling over time between them."""
    make = _Maker(size, device)
    B, T, C, Q = make.B, make.T, make.C, make.config.num_queries
    layer = make.model().decoder.layers[-1]
    position = make.randn(Q, C)
    reference = make.uniform(B, T, Q, 1, 4).expand(B, T, Q, len(STRIDES), 4)
    padding = make.no_padding()

    def ours(leaves: list[Tensor]) -> list[Tensor]:
        memory, instance, box = leaves
        box, sampled, time_logits = layer.box_stream(
            box, position, reference, memory, make.shapes, None
        )
        (pooled,) = TemporalPool.of([time_logits], [sampled]).pooled()
        return [layer.instance_stream(instance, position, pooled), box]

    def published(leaves: list[Tensor]) -> list[Tensor]:
        memory, instance, box = leaves
        return list(
            published_transformer.decoder_layer(
                layer, instance, box, position.expand(B, -1, -1), reference, memory, make.shapes,
                padding,
            )
        )  # fmt: skip

    inputs = [make.memory(), make.randn(B, Q, C), make.randn(B, T, Q, C)]
    return Block(inputs, ours, published, _trained(layer))


def decoder(size: ModelSize, device: torch.device) -> Block:
    """All layers: memory in, instance queries of every layer out."""
    make = _Maker(size, device)
    model = make.model()
    padding, ratios = make.no_padding(), make.ratios()

    def ours(leaves: list[Tensor]) -> list[Tensor]:
        (memory,) = leaves
        position, content = model.query_embed.weight.chunk(2, dim=1)
        reference = model.reference_points(position).sigmoid().expand(make.B, 1, -1, -1)
        states = model.decoder.box_stream(
            content.expand(make.B, 1, -1, -1), position, reference, memory, make.shapes, None,
            ratios,
        )  # fmt: skip
        pool = TemporalPool.of(states.time_logits, states.sampled)
        return model.instance_stream(pool.pooled())

    def published(leaves: list[Tensor]) -> list[Tensor]:
        (memory,) = leaves
        return published_transformer.decode(model, memory, make.shapes, padding, ratios).instances

    return Block([make.memory()], ours, published)


def mask_branch(size: ModelSize, device: torch.device) -> Block:
    """Mask features of all frames; the published code does this once per decoder layer."""
    make = _Maker(size, device)
    model = make.model()

    def ours(leaves: list[Tensor]) -> list[Tensor]:
        return [model.mask_features(leaves[0], make.shapes)]

    def published(leaves: list[Tensor]) -> list[Tensor]:
        levels = published_masks.mask_levels(leaves[0], make.shapes)
        frames = [
            published_masks.mask_features(model.mask_branch, levels, t) for t in range(make.T)
        ]
        return [torch.stack(frames, dim=1)]

    return Block([make.memory()], ours, published, _trained(model.mask_branch))


def backbone_stage(size: ModelSize, device: torch.device) -> Block:
    """The third stage of a ResNet-50, six blocks at stride 16."""
    make = _Maker(size, device)
    with unset_fake_temporarily():
        torch.manual_seed(0)
        stage = ResNet((1, 1, 6, 1)).layer3.to(device)
    h, w = make.shapes[0]

    def ours(leaves: list[Tensor]) -> list[Tensor]:
        return [stage(leaves[0])]

    def published(leaves: list[Tensor]) -> list[Tensor]:
        (x,) = leaves
        for block in stage:
            x = published_transformer.bottleneck(block, x)
        return [x]

    return Block([make.randn(make.B * make.T, 512, h, w)], ours, published, _trained(stage))


def matcher(size: ModelSize, device: torch.device) -> Block:
    """Assignment in all decoder layers: queries and instances of the pairs, in order."""
    make = _Maker(size, device)
    config = LossConfig()
    _, targets = padding_and_targets(size, device)
    first = torch.tensor([0, *(len(t["labels"]) for t in targets)]).cumsum(0).tolist()

    def ours(leaves: list[Tensor]) -> list[Tensor]:
        class_logits, boxes = leaves
        matches = HungarianMatcher(config)(class_logits, boxes, targets)
        return [matches.query, matches.target]

    def published(leaves: list[Tensor]) -> list[Tensor]:
        pairs = [
            (query, target + start)
            for class_logits, boxes in zip(*leaves, strict=True)
            for start, (query, target) in zip(
                first, published_losses.match(config, class_logits, boxes, targets), strict=False
            )
        ]
        return [torch.cat(column) for column in zip(*pairs, strict=True)]

    return Block(_predictions(make)[:2], ours, published)


def criterion(size: ModelSize, device: torch.device) -> Block:
    """Matching and all losses of all layers, drawing the matched masks on the way."""
    make = _Maker(size, device)
    ours_of, config = SetCriterion(), LossConfig()
    _, targets = padding_and_targets(size, device)
    stride = STRIDES[0]

    def total(losses: dict[str, Tensor]) -> list[Tensor]:
        return [ours_of.weighted_sum(losses)]

    def ours(leaves: list[Tensor]) -> list[Tensor]:
        return total(ours_of(ClipOutput(*leaves, mask_stride=stride), targets))

    def published(leaves: list[Tensor]) -> list[Tensor]:
        *by_layer, features = leaves
        frame = features.new_tensor([size.width, size.height])
        layers = []
        for class_logits, boxes, params, points in zip(*by_layer, strict=True):
            prediction = published_losses.Prediction(class_logits, boxes, params, points)
            matches = published_losses.match(config, class_logits, boxes, targets)
            counts = [len(query) for query, _ in matches]
            chosen = torch.cat([params[b, query] for b, (query, _) in enumerate(matches)])
            places = [points[b][:, query] * frame for b, (query, _) in enumerate(matches)]
            points_px = torch.cat(places, dim=1)
            frames = [
                published_masks.dynamic_masks(features[:, t], chosen, points_px[t], counts, stride)
                for t in range(make.T)
            ]
            layers.append((prediction, matches, torch.stack(frames, dim=1).split(counts)))
        return total(published_losses.losses_by_layer(config, layers, targets, stride))

    return Block(_predictions(make), ours, published)


def _predictions(make: _Maker) -> list[Tensor]:
    """Class logits, boxes, mask parameters and reference points of all layers; mask features."""
    config = make.config
    D, B, T, Q = config.num_decoder_layers, make.B, make.T, config.num_queries
    return [
        make.randn(D, B, Q, config.num_classes) - 3,
        make.uniform(D, B, T, Q, 4),
        0.1 * make.randn(D, B, Q, MASK_PARAMS),
        make.uniform(D, B, T, Q, 2),
        make.randn(B, T, 8, *make.shapes[0]).relu(),
    ]


def _trained(module: nn.Module | Any) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]
