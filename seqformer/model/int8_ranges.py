"""Ranges of what goes through a model's layers: what 8-bit integers have to stand for.

They are measured once, in float32, on a few frames: the smallest and largest number at each place,
no other statistics. What lies outside later is clamped. Places are named as the modules are.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import write_json
from ..safe_files import open_regular
from .attention import MSDeformAttn
from .blocks import FeedForward
from .decoder import DecoderLayer
from .encoder import EncoderLayer
from .linear import linear
from .resnet import Bottleneck, ResNet
from .seqformer import SeqFormer

FORMAT = "seqformer int8 ranges 1"
Range = tuple[float, float]


@dataclass(frozen=True)
class Int8Ranges:
    """The smallest and largest numbers in a model.

    Attributes:
        places: place -> (smallest, largest).
        weights: `fingerprint` of the model.
    """

    places: dict[str, Range]
    weights: str

    def as_json(self) -> dict[str, Any]:
        """As it is stored."""
        places = {name: list(ends) for name, ends in self.places.items()}
        return {"format": FORMAT, "weights": self.weights, "places": places}

    @classmethod
    def from_json(cls, state: Any) -> Int8Ranges:
        """From what `as_json` gave. Raises: ValueError when it is something else."""
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise ValueError("these are no ranges")
        try:
            places = {str(k): (float(a), float(b)) for k, (a, b) in state["places"].items()}
            return cls(places, str(state["weights"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError("the ranges are damaged") from None

    def save(self, path: str | Path) -> None:
        """Write a file for `load`. Raises: WriteError."""
        write_json(Path(path), self.as_json())

    @classmethod
    def load(cls, path: str | Path) -> Int8Ranges:
        """Read what `save` wrote. Raises: FileNotFoundError; ValueError naming a damaged file."""
        with open_regular(Path(path), "ranges file") as file:
            try:
                return cls.from_json(json.load(file))
            except ValueError as error:
                raise ValueError(
                    f"{path} is no file of ranges ({error}); name one that --int8-ranges has "
                    "written, or one that does not exist yet"
                ) from None


def fingerprint(model: nn.Module) -> str:
    """A checksum of all weights."""
    crc = 0
    for tensor in model.state_dict().values():
        content = tensor.detach().contiguous().flatten().view(torch.uint8)
        crc = zlib.crc32(content.numpy(), crc)
    return f"{crc:08x}"


@torch.inference_mode()
def measure_ranges(model: SeqFormer, plain: SeqFormer, frames: Iterable[Tensor]) -> Int8Ranges:
    """What frames make of a model.

    Args:
        model: on the CPU.
        plain: its `inference_copy` in float32, not packed.
        frames: [1, 1, 3, H, W] each, normalised.

    Raises: ValueError when there is no frame, or a number is not finite.
    """
    seen = _Seen()
    hooks = [hook for name, module in plain.named_modules() for hook in seen.watch(name, module)]
    count = 0
    try:
        for frame in frames:
            plain.box_stream(frame)
            count += 1
    finally:
        for hook in hooks:
            hook.remove()
    if not count:
        raise ValueError("ranges are measured on frames, and there is none")
    places = {name: (float(low), float(high)) for name, (low, high) in seen.places.items()}
    broken = [name for name, ends in places.items() if not all(map(_is_finite, ends))]
    if broken:
        raise ValueError(f"the model's numbers at {broken[0]} are NaN or infinite")
    return Int8Ranges(places, fingerprint(model))


def _is_finite(number: float) -> bool:
    return abs(number) < float("inf")


def attention_of(layer: EncoderLayer | DecoderLayer) -> MSDeformAttn:
    """The deformable attention of a layer."""
    return layer.self_attn if isinstance(layer, EncoderLayer) else layer.cross_attn


def feed_forward_of(layer: EncoderLayer | DecoderLayer) -> FeedForward:
    """The feed-forward block that runs per frame."""
    return layer.ffn if isinstance(layer, EncoderLayer) else layer.ffn_box


class _Seen:
    """What has been seen so far."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        """Hooks on a module whose numbers become integers."""
        if isinstance(module, ResNet):
            return [module.conv1.register_forward_hook(self._result(f"{name}.conv1"))]
        if isinstance(module, Bottleneck):
            watched = {".conv1": module.conv1, ".conv2": module.conv2, "": module}
            if module.downsample is not None:
                watched[".downsample"] = module.downsample[0]
            return [m.register_forward_hook(self._result(name + n)) for n, m in watched.items()]
        if isinstance(module, EncoderLayer | DecoderLayer):
            attention, block = attention_of(module), feed_forward_of(module)
            inputs: dict[str, nn.Module] = {".value": attention.value_proj, ".ffn": block}
            if isinstance(module, EncoderLayer):
                inputs[".sampled"] = attention.output_proj
            hooks = [m.register_forward_pre_hook(self._input(name + n)) for n, m in inputs.items()]
            hidden = self._hidden(f"{name}.ffn.hidden")
            return [*hooks, block.register_forward_pre_hook(hidden)]
        return []

    def _add(self, name: str, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        before = self.places.get(name)
        if before is not None:
            low, high = torch.minimum(low, before[0]), torch.maximum(high, before[1])
        self.places[name] = low, high

    def _result(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, result: self._add(name, result)

    def _input(self, name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: self._add(name, inputs[0])

    def _hidden(self, name: str) -> Callable[[nn.Module, Any], None]:
        def see(module: nn.Module, inputs: Any) -> None:
            assert isinstance(module, FeedForward)
            first = module.linear1
            self._add(name, linear(inputs[0], first.weight, first.bias, relu=True))

        return see
