"""Faults as a change of the code could bring them, which the cases must find."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch

from seqformer.criterion import criterion
from seqformer.inference.network import FrameNetwork
from seqformer.model import decoder, position_encoding
from seqformer.model.seqformer import SeqFormer


def fault(name: str | None):
    """Inside, the fault is there."""
    return nullcontext() if name is None else FAULTS[name]()


@contextmanager
def _constant_on_the_cpu() -> Iterator[None]:
    ratio = position_encoding.valid_ratio
    scaled = lambda mask: ratio(mask) * torch.tensor([1.0, 1.0])  # noqa: E731
    with mock.patch.object(position_encoding, "valid_ratio", scaled):
        yield


@contextmanager
def _round_trip() -> Iterator[None]:
    encode = SeqFormer.mask_features
    with mock.patch.object(
        SeqFormer, "mask_features", lambda *args: encode(*args).cpu().to(args[1].device)
    ):
        yield


@contextmanager
def _value_read() -> Iterator[None]:
    inverse = decoder.inverse_sigmoid

    def reads(x):
        return inverse(x) if float(x.sum()) >= 0 else x

    with mock.patch.object(decoder, "inverse_sigmoid", reads):
        yield


@contextmanager
def _current_device() -> Iterator[None]:
    dice = criterion.dice
    with mock.patch.object(
        criterion, "dice", lambda *sums: dice(*sums) + 0 * torch.zeros((), device="cuda")
    ):
        yield


@contextmanager
def _low_precision_gradient() -> Iterator[None]:
    forward = SeqFormer.forward

    def narrow(model, *args):
        for parameter in model.class_embed.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        return forward(model, *args)

    with mock.patch.object(SeqFormer, "forward", narrow):
        yield


@contextmanager
def _constant_for_every_chunk() -> Iterator[None]:
    frames = FrameNetwork.frames

    def anew(network, *given):
        network._mean = torch.zeros(3, 1, 1).to(network.device)
        return frames(network, *given)

    with mock.patch.object(FrameNetwork, "frames", anew):
        yield


@contextmanager
def _float_cumsum() -> Iterator[None]:
    code = position_encoding.sine_position

    def summed(mask, channels):
        return code(mask, channels) + 0 * mask.cumsum(1, dtype=torch.float32)[:, None]

    with mock.patch.object(position_encoding, "sine_position", summed):
        yield


FAULTS = {
    "float cumsum": _float_cumsum,
    "constant on the CPU": _constant_on_the_cpu,
    "round trip": _round_trip,
    "value read": _value_read,
    "current device": _current_device,
    "low precision gradient": _low_precision_gradient,
    "constant for every chunk": _constant_for_every_chunk,
}
