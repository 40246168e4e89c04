"""The layers of a model that run on 8-bit integers: those of its ResNet, and the large products of
its transformer.

Between the layers of the ResNet there are integers only, its shortcuts included. The stem stays as
it is: three channels are not worth it, and what it loses would be lost for all. In encoder and box
stream the feed-forward blocks and the projections of values (and in the encoder those of what was
sampled) are products of integers. Norms, sums and attention stay float32, and so does what says
where to look: sampling offsets, attention weights, references, boxes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import FeedForward
from .decoder import DecoderLayer
from .encoder import EncoderLayer
from .int8_products import Int8Conv2d, Int8Linear, Scale, to_floats, to_integers
from .int8_ranges import Range, attention_of, feed_forward_of
from .resnet import Bottleneck, ResNet

LEAST_CHANNELS = 128
"""With fewer inputs or outputs, a linear layer gains less than making integers costs."""
Places = Mapping[str, Range]


def has_int8_layers(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether `put_int8_layers` replaces any layer of a model."""
    return any(isinstance(m, ResNet) or _pays(m, dtype) for m in model.modules())


def put_int8_layers(model: nn.Module, places: Places, dtype: torch.dtype) -> None:
    """Replace layers by their 8-bit forms. In place, for inference on a CPU.

    Args:
        model: in float32, with its frozen norms folded.
        places: of the same model, by `measure_ranges`.
        dtype: of the rest. In bfloat16 (on a CPU with AMX) products of the transformer take no
            longer than integers with their making, and stay as they are.
    """
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            path = f"{name}.{child_name}" if name else child_name
            if isinstance(child, ResNet):
                setattr(module, child_name, Int8ResNet(child, path, places, dtype))
            elif isinstance(child, EncoderLayer | DecoderLayer) and _pays(child, dtype):
                _put_in_layer(child, path, places)


def _pays(layer: nn.Module, dtype: torch.dtype) -> bool:
    if not isinstance(layer, EncoderLayer | DecoderLayer) or dtype != torch.float32:
        return False
    return min(layer.ffn.linear1.weight.shape) >= LEAST_CHANNELS


def _put_in_layer(layer: EncoderLayer | DecoderLayer, path: str, places: Places) -> None:
    attention, block = attention_of(layer), feed_forward_of(layer)
    ffn = Int8FeedForward(block, f"{path}.ffn", places)
    layer.add_module("ffn" if isinstance(layer, EncoderLayer) else "ffn_box", ffn)
    value = Int8Linear(attention.value_proj, _signed(places, f"{path}.value"))
    attention.add_module("value_proj", value)
    if isinstance(layer, EncoderLayer):
        sampled = Int8Linear(attention.output_proj, _signed(places, f"{path}.sampled"))
        attention.add_module("output_proj", sampled)


def _signed(places: Places, name: str) -> Scale:
    return Scale.of(*places[name])


def _unsigned(places: Places, name: str) -> Scale:
    """After a ReLU."""
    return Scale.of(0.0, places[name][1])


class Int8FeedForward(nn.Module):
    """A `FeedForward`."""

    def __init__(self, block: FeedForward, path: str, places: Places) -> None:
        super().__init__()
        hidden = _unsigned(places, f"{path}.hidden")
        self.linear1 = Int8Linear(block.linear1, _signed(places, path), hidden)
        self.linear2 = Int8Linear(block.linear2, hidden)
        self.norm = block.norm

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C], float32."""
        return self.norm(self.linear2(self.linear1(x)).add_(x))


class Int8Bottleneck(nn.Module):
    """A `Bottleneck` from uint8 to uint8.

    Args:
        block: with its norms folded.
        source: of its input.
    """

    def __init__(self, block: Bottleneck, source: Scale, path: str, places: Places) -> None:
        super().__init__()
        one, two = (_unsigned(places, f"{path}.{name}") for name in ("conv1", "conv2"))
        self.target = _unsigned(places, path)
        self.conv1 = Int8Conv2d(block.conv1, source, one, relu=True)
        self.conv2 = Int8Conv2d(block.conv2, one, two, relu=True)
        self.conv3 = Int8Conv2d(block.conv3, two, self.target)
        self.downsample, self._shortcut = None, source
        if block.downsample is not None:
            conv = block.downsample[0]
            assert isinstance(conv, nn.Conv2d)
            self._shortcut = _signed(places, f"{path}.downsample")
            self.downsample = Int8Conv2d(conv, source, self._shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h', w'], channels last."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.conv3.add_to(shortcut, self._shortcut, self.conv2(self.conv1(x)))


class Int8ResNet(nn.Module):
    """A `ResNet` whose norms are folded.

    Args:
        resnet: its stem is taken over as it is.
        path: its name in `places`.
        dtype: of its results.
    """

    def __init__(self, resnet: ResNet, path: str, places: Places, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1, self._dtype = resnet.conv1, dtype
        self._source = source = _unsigned(places, f"{path}.conv1")
        self.stages = nn.ModuleList()
        self._scales: list[Scale] = []
        for number in range(1, 5):
            blocks = []
            for name, block in resnet.get_submodule(f"layer{number}").named_children():
                assert isinstance(block, Bottleneck)
                own_path = f"{path}.layer{number}.{name}"
                blocks.append(Int8Bottleneck(block, source, own_path, places))
                source = blocks[-1].target
            self.stages.append(nn.Sequential(*blocks))
            self._scales.append(source)

    def forward(self, x: Tensor) -> list[Tensor]:
        """As `ResNet.forward`; maps are channels last. That at stride 4, which no SeqFormer reads,
        is left in integers."""
        # The stem's ReLU is the lower end of the integers.
        x = self.conv1(x.contiguous(memory_format=torch.channels_last))
        x = to_integers(F.max_pool2d(x, 3, 2, 1), self._source)
        maps: list[Tensor] = []
        for stage, scale in zip(self.stages, self._scales, strict=True):
            x = stage(x)
            maps.append(to_floats(x, scale, self._dtype) if maps else x)
        return maps
