"""SeqFormer (Wu et al., ECCV 2022): backbone, pyramid, encoder, two-stream decoder, heads.

Written in frame-batched form: frames are folded into the batch wherever they are independent. They
meet only in the temporal softmax of each decoder layer, so `forward` is `box_stream` on frames,
`TemporalPool` over them, and `instance_stream` on the pool; whoever has more frames than memory
calls the first in chunks and merges the pools.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import ModelConfig
from ..structures import ClassMap, ClipOutput
from .attention import MSDeformAttn
from .backbone import build_backbone
from .blocks import MLP
from .decoder import BoxStates, Decoder, inverse_sigmoid
from .encoder import Encoder
from .full_float32 import FullLinear
from .level_tokens import level_rows, maps_of_tokens, tokens_of_maps
from .masks import NUM_MASK_PARAMS, MaskBranch
from .one_graph import with_own_strides
from .padding import is_rectangle
from .position_encoding import geometry_in_graph, geometry_of, unpadded_geometry
from .temporal import TemporalPool


class SeqFormer(nn.Module):
    """The whole network; see `forward`.

    Attributes:
        config: its settings.
        classes: of its outputs, where `from_pretrained` read them; else None.
    """

    classes: ClassMap | None = None
    from_pretrained: ClassVar[Callable[..., SeqFormer]]
    save_pretrained: ClassVar[Callable[..., None]]
    push_to_hub: ClassVar[Callable[..., str]]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, layers = config.hidden_dim, config.num_decoder_layers
        # The order of the modules is that of the published optimiser state.
        self.level_embed = nn.Parameter(torch.empty(config.num_levels, dim))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.reference_points = FullLinear(dim, 2)
        heads = (FullLinear(dim, config.num_classes) for _ in range(layers))
        self.class_embed = nn.ModuleList(heads)
        self.query_embed = nn.Embedding(config.num_queries, 2 * dim)
        backbone = build_backbone(config.backbone, config.drop_path)
        self.input_proj = _input_projections(backbone.channels[1:], dim, config.num_levels)
        self.backbone = backbone
        self.controller = MLP(dim, dim, NUM_MASK_PARAMS, 3)
        self.mask_branch = MaskBranch(dim, config.mask_dim)
        self.mask_stride = backbone.strides[1]
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        # Not the heads: the published ones are no part of the transformer yet when it is drawn.
        for module in (self.encoder, self.decoder.layers):
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
            for part in module.modules():
                if isinstance(part, MSDeformAttn):
                    part.reset_parameters()
        nn.init.normal_(self.level_embed)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)
        for projection in self.input_proj.children():
            convolution = next(projection.children())
            assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        class_head, box_head = self.class_embed[0], self.decoder.bbox_embed[0]
        assert isinstance(class_head, FullLinear) and isinstance(box_head, MLP)
        nn.init.constant_(class_head.bias, -math.log(99))  # prior probability 0.01
        nn.init.zeros_(box_head.last.weight)
        nn.init.zeros_(box_head.last.bias)
        for heads in (self.class_embed, self.decoder.bbox_embed):
            for head in list(heads)[1:]:  # all layers begin with the same heads
                head.load_state_dict(heads[0].state_dict())
        nn.init.constant_(box_head.last.bias[2:], -2.0)
        for linear in self.controller.layers:
            assert isinstance(linear, FullLinear)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        images: Tensor,
        padding_mask: Tensor | None = None,
        last_layer_only: bool = False,
        *,
        place: Tensor | None = None,
    ) -> ClipOutput:
        """Queries, boxes and mask features of a batch of clips.

        Args:
            images: [B, T, 3, H, W], normalised with ImageNet mean and deviation, zero where padded.
            padding_mask: [B, H, W] bool, True on padding, which lies right of and below the frame;
                None when nothing is padded.
            last_layer_only: apply class and mask-parameter heads to the last layer only (D = 1).
            place: for `as_one_graph`, see `token_place`.

        Returns: `ClipOutput` with D decoder layers stacked first.
        Raises: ValueError naming the argument and its shape when it does not fit.
        """
        states, mask_features = self.box_stream(images, padding_mask, place=place)
        pool = TemporalPool.of(states.time_logits, states.sampled)
        instances = self.instance_stream(pool.pooled())
        kept = slice(-1, None) if last_layer_only else slice(None)
        class_logits, mask_params = self.instance_heads(instances, last_layer_only)
        B, T = mask_features.shape[:2]
        references = [r[..., :2].expand(B, T, -1, -1) for r in states.references[kept]]
        return ClipOutput(
            class_logits=class_logits,
            boxes=torch.stack(states.boxes[kept]),
            mask_params=mask_params,
            reference_points=mask_reference(torch.stack(references)),
            mask_features=mask_features,
            mask_stride=self.mask_stride,
        )

    def box_stream(
        self,
        images: Tensor,
        padding_mask: Tensor | None = None,
        *,
        place: Tensor | None = None,
    ) -> tuple[BoxStates, Tensor]:
        """Everything that happens to a frame by itself: T may be any chunk of a clip's frames.

        Args: as in `forward`; `padding_mask` is the same for every chunk of a clip.
        Returns: the box queries' findings in every layer, and mask features [B, T, 8, h, w].
        Raises: ValueError naming the argument and its shape when it does not fit.
        """
        B = self._check_input(images, padding_mask)
        if not torch.compiler.is_dynamo_compiling():
            place = None
        memory, shapes, valid_shapes, valid_ratios = self.encode(images, padding_mask, place)
        position, content = self.query_embed.weight.chunk(2, dim=1)  # [Q, C] each
        reference = self.reference_points(position).sigmoid().expand(B, 1, -1, -1)
        states = self.decoder.box_stream(
            content.expand(B, 1, -1, -1),
            position,
            reference,
            memory,
            shapes,
            valid_shapes,
            valid_ratios,
        )
        return states, self.mask_features(memory, shapes, place is not None)

    def token_place(self, images: Tensor) -> Tensor:
        """[S] for frames of the size of `images`: what tells a graph their number of tokens as a
        size of its own, which its compiler does not have to work out."""
        H, W = images.shape[-2:]
        strides = [*self.backbone.strides[1:]]
        while len(strides) < self.config.num_levels:
            strides.append(2 * strides[-1])
        tokens = sum(-(-H // stride) * -(-W // stride) for stride in strides)
        return torch.empty(tokens, device=images.device)

    def instance_stream(self, pooled: Tensor) -> list[Tensor]:
        """The instance queries of clips whose frames have all been seen.

        Args:
            pooled: [D, B, Q, C], `TemporalPool.pooled()` of all frames.

        Returns: D tensors [B, Q, C].
        """
        position, content = self.query_embed.weight.chunk(2, dim=1)
        instance = content.expand(pooled.shape[1], -1, -1)
        return self.decoder.instance_stream(instance, position, pooled)

    def instance_heads(
        self, instances: list[Tensor], last_layer_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Class logits [D, B, Q, K] and mask parameters [D, B, Q, G] of `instance_stream`'s result;
        D = 1 with `last_layer_only`."""
        kept = slice(-1, None) if last_layer_only else slice(None)
        class_logits = [
            head(x) for head, x in zip(self.class_embed[kept], instances[kept], strict=True)
        ]
        return torch.stack(class_logits), self.controller(torch.stack(instances[kept]))

    def encode(
        self, images: Tensor, padding_mask: Tensor | None, place: Tensor | None = None
    ) -> tuple[Tensor, list[tuple[int, int]], Tensor | None, Tensor]:
        """Backbone, pyramid and encoder: frames on their own.

        Returns: memory [B, T, S, C], L shapes (h, w), valid_shapes [B, L, 2] int32 or None,
            valid_ratios [B, L, 2].
        """
        B = images.shape[0]
        dim = self.config.hidden_dim
        frames = rearrange(images, "b t c h w -> (b t) c h w")
        maps = self.pyramid(with_own_strides(frames))
        shapes = [(m.shape[2], m.shape[3]) for m in maps]
        rows: Sequence[Tensor] | Tensor = self.level_embed
        if place is not None:
            tokens = tokens_of_maps(maps, place)
            rows = [level_rows(self.level_embed, shapes, place)]
        else:
            tokens = torch.cat([rearrange(m, "n c h w -> n (h w) c") for m in maps], dim=1)
        tokens = rearrange(tokens, "(b t) s c -> b t s c", b=B)
        del maps  # not needed beside the encoder's own tensors

        if torch.compiler.is_dynamo_compiling():
            if place is None:
                place = images.new_empty(tokens.shape[2])
                areas = zip(rows, (h * w for h, w in shapes), strict=True)
                rows = [torch.cat([row.expand(area, -1) for row, area in areas])]
            geometry = geometry_in_graph(padding_mask, shapes, dim, place)
        elif padding_mask is None:  # one clip's worth of shape-only tensors serves the whole batch
            geometry = unpadded_geometry(tuple(shapes), dim, images.device)
        else:
            geometry = geometry_of(padding_mask, shapes, dim)
        levels = zip(geometry.codes, rows, strict=True)
        position = torch.cat([code + embedding for code, embedding in levels], dim=1)
        position = position[:, None].to(tokens.dtype)  # [B or 1, 1, S, C]
        reference = geometry.reference[:, None]
        valid_shapes = geometry.valid_shapes
        memory = self.encoder(tokens, position, reference, shapes, valid_shapes)
        memory = memory.to(tokens.dtype)
        return memory, shapes, valid_shapes, geometry.valid_ratios

    def pyramid(self, frames: Tensor) -> list[Tensor]:
        """[n, 3, H, W] -> L maps [n, C, h_l, w_l], finest first."""
        features = self.backbone(frames)[1:]
        maps = [
            projection(feature)
            for projection, feature in zip(self.input_proj, features, strict=False)
        ]
        # parity: the first extra level convolves the raw backbone map, not the projected one.
        extra = features[-1]
        for projection in self.input_proj[len(features) :]:
            extra = projection(extra)
            maps.append(extra)
        return maps

    def mask_features(
        self, memory: Tensor, shapes: list[tuple[int, int]], has_place: bool = False
    ) -> Tensor:
        """[B, T, S, C] encoder output -> [B, T, 8, h, w] of the finest level; `has_place` where S
        is the size of a `place`."""
        B = memory.shape[0]
        tokens = rearrange(memory, "b t s c -> (b t) s c")
        if has_place:
            maps = maps_of_tokens(tokens, shapes[:3])
        else:
            levels = tokens.split([h * w for h, w in shapes], dim=1)[:3]
            maps = [
                rearrange(level, "n (h w) c -> n c h w", h=shape[0], w=shape[1])
                for level, shape in zip(levels, shapes, strict=False)
            ]
        features = rearrange(self.mask_branch(*maps), "(b t) c h w -> b t c h w", b=B)
        return with_own_strides(features)

    def _check_input(self, images: Tensor, padding_mask: Tensor | None) -> int:
        """Returns: B."""
        if images.dim() != 5 or images.shape[2] != 3:
            raise ValueError(f"images must be [B, T, 3, H, W], got {list(images.shape)}")
        if 0 in images.shape:
            raise ValueError(
                f"images {list(images.shape)} are empty; a batch needs at least one clip of one "
                "frame"
            )
        if not images.is_floating_point():
            raise ValueError(
                f"images must be normalised floats, got {images.dtype}; divide by 255, subtract "
                "the mean and divide by the deviation first"
            )
        own = next(self.backbone.parameters()).dtype
        if images.dtype != own and not torch.is_autocast_enabled(images.device.type):
            raise ValueError(
                f"images are {images.dtype} but the model's weights {own}; convert one of them, "
                "or use autocast"
            )
        B, _, _, H, W = images.shape
        if padding_mask is not None and (
            list(padding_mask.shape) != [B, H, W] or padding_mask.dtype != torch.bool
        ):
            raise ValueError(
                f"padding_mask must be bool [B, H, W] = {[B, H, W]}, got "
                f"{padding_mask.dtype} {list(padding_mask.shape)}"
            )
        # On a GPU, looking would wait for the device; a compiler has no values to look at.
        if (
            padding_mask is not None
            and not torch.compiler.is_compiling()
            and padding_mask.device.type == "cpu"
            and not is_rectangle(padding_mask)
        ):
            raise ValueError(
                "padding_mask must be False in a rectangle at the top left of every clip and True "
                "right of it and below it"
            )
        return B


def mask_reference(reference: Tensor) -> Tensor:
    """[..., 2 or 4] that entered a layer -> [..., 2] that masks are drawn relative to.

    parity: masks are drawn relative to the reference that *entered* the layer, not to the box that
    it predicts, after a round trip through logit and sigmoid.
    """
    return inverse_sigmoid(reference[..., :2]).sigmoid()


def _input_projections(channels: tuple[int, ...], dim: int, num_levels: int) -> nn.ModuleList:
    """1x1 convolutions of the backbone maps, then 3x3 stride-2 ones; each with GroupNorm(32)."""
    projections = [
        nn.Sequential(nn.Conv2d(width, dim, 1), nn.GroupNorm(32, dim)) for width in channels
    ]
    inputs = channels[-1]
    for _ in range(num_levels - len(channels)):
        projections.append(nn.Sequential(nn.Conv2d(inputs, dim, 3, 2, 1), nn.GroupNorm(32, dim)))
        inputs = dim
    return nn.ModuleList(projections)
