"""What makes coordinates is full float32, in training with TF32 and in all of inference."""

from __future__ import annotations

import sys
from threading import Barrier, Thread
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from seqformer.config import EvalConfig
from seqformer.distributed.context import DistributedContext
from seqformer.inference import Predictor
from seqformer.model import full_float32, memory_efficient
from seqformer.model.attention import MSDeformAttn, QuerySelfAttention
from seqformer.model.full_float32 import FullLinear, full_linear, use_tf32
from tests.inference.small_model import film, small_model
from tests.trainer.one_step import build_step, take_step

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}
PRODUCTS |= {"linear", "conv2d", "_linear_pointwise"}
PRODUCTS |= {"_scaled_dot_product_flash_attention_for_cpu"}


def flags() -> tuple[bool, bool]:
    """Whether products, and whether convolutions, may be rounded."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


class Products(TorchDispatchMode):
    """Every product with the settings it ran under, and the storages of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[bool, bool], set[int]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            self.note(name, *args)
        return func(*args, **(kwargs or {}))

    def note(self, name, *args) -> None:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        self.seen.append((name, flags(), {t.untyped_storage().data_ptr() for t in tensors}))

    def with_any_of(self, tensors) -> list[tuple[bool, bool]]:
        places = {t.untyped_storage().data_ptr() for t in tensors}
        return [setting for _, setting, storages in self.seen if storages & places]


@pytest.fixture
def tf32(monkeypatch):
    """TF32 is on, a CPU tensor counts as one that it would round, and products are watched."""
    before = flags()
    use_tf32(True)
    for module in (full_float32, memory_efficient):
        monkeypatch.setattr(module, "may_round", lambda x: x.dtype == torch.float32)
    products = Products()

    def inside(*args):  # of our operator, where a mode does not look
        products.note("linear", *args)
        return F.linear(*args)

    monkeypatch.setattr(full_float32, "F", SimpleNamespace(linear=inside))
    yield products
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def islands(model: nn.Module) -> list[torch.Tensor]:
    """The weights whose products must not be rounded."""
    attentions = [m for m in model.modules() if isinstance(m, MSDeformAttn)]
    weights = [m.sampling_offsets.weight for m in attentions]
    weights += [m.attention_weights.weight for m in attentions]
    return weights + [m.weight for m in model.modules() if isinstance(m, FullLinear)]


def test_the_heads_are_islands():
    model = small_model()
    exact = {name for name, module in model.named_modules() if isinstance(module, FullLinear)}
    mlps = ("controller", "decoder.bbox_embed.0", "decoder.bbox_embed.1")
    expected = {f"{mlp}.layers.{i}" for mlp in mlps for i in range(3)}
    expected |= {f"decoder.layers.{i}.time_attention_weights" for i in range(2)}
    assert exact == expected | {"reference_points", "class_embed.0", "class_embed.1"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_with_tf32_rounds_no_product_of_the_islands(precision, tf32):
    step = build_step(DistributedContext(), "none", precision=precision, dtype=torch.float32)
    with tf32 as products:
        take_step(step, 1, clips=2)
    exact = products.with_any_of(islands(step.parallel_model.model))
    assert len(exact) >= 2 * len(islands(step.parallel_model.model)) and set(exact) == {
        (False, False)
    }
    if precision == "fp32":
        attentions = (
            m for m in step.parallel_model.model.modules() if isinstance(m, QuerySelfAttention)
        )
        others = [attention.in_proj_weight for attention in attentions]
        assert set(products.with_any_of(others)) == {(True, True)}
    assert flags() == (True, True)


def test_gradients_of_weights_are_not_rounded_either(tf32):
    """Of a product's three directions, the last has no weight among its arguments."""
    x, position = torch.randn(2, 3, 5, requires_grad=True), torch.randn(3, 5)
    layers = [(torch.randn(n, 5, requires_grad=True), torch.randn(n)) for n in (4, 6)]
    with tf32 as products:
        joined = memory_efficient.linears_of_sum(x, position, *layers, is_exact=True)
        single = full_linear(x, *layers[0])
        (sum(out.sum() for out in joined) + single.sum()).backward()
    settings = [setting for _, setting, _ in products.seen]
    assert len(settings) >= 9 and set(settings) == {(False, False)}


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)])
def test_full_linear_is_a_linear_layer(shape, tf32):
    torch.manual_seed(0)
    arguments = [torch.randn(*s, requires_grad=True) for s in (shape, (4, 5), (4,))]
    seed = torch.randn(*shape[:-1], 4)
    expected = F.linear(*arguments)
    actual = full_linear(*arguments)
    torch.testing.assert_close(actual, expected)
    grads, expected_grads = (torch.autograd.grad(o, arguments, seed) for o in (actual, expected))
    torch.testing.assert_close(grads, expected_grads)


def test_compiled_in_one_piece(tf32):
    torch.manual_seed(0)
    layer, x = FullLinear(5, 4), torch.randn(3, 5, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    out = compiled(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert tf32.seen and {setting for _, setting, _ in tf32.seen} == {(False, False)}
    torch.testing.assert_close(out, layer(x))
    torch.testing.assert_close(grad, layer.weight.sum(0).expand(3, 5))


@pytest.mark.parametrize("mode", ["whole", "clips"])
def test_inference_is_full_float32_whatever_is_set(mode, monkeypatch):
    """So validation inside a run and `eval.py` agree. Products that are split on the CPU cannot be
    rounded, and are left out."""
    module = sys.modules["seqformer.model.inference_copy"]  # its function has the same name
    monkeypatch.setattr(module, "can_pack", lambda dtype: False)
    config = EvalConfig(short_side=40, mode=mode, clip_length=2, clip_stride=1, chunk_frames=2)
    predictor = Predictor(small_model(), config=config, device="cpu")
    before = flags()
    try:
        for setting in (True, False):
            use_tf32(setting)
            with Products() as products, torch.no_grad():
                predictor.predict(film(3))
            names = {name for name, _, _ in products.seen}
            assert {"conv2d", "linear"} <= names
            assert {setting for _, setting, _ in products.seen} == {(False, False)}
            assert flags() == (setting, setting)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_threads_leave_the_setting_as_they_found_it():
    before = flags()
    use_tf32(True)
    barrier, seen = Barrier(2), []

    def first():
        with full_float32.full_float32():
            barrier.wait()  # the second is inside
            barrier.wait()  # the second has left
            seen.append(flags())

    def second():
        with full_float32.full_float32():
            barrier.wait()
        barrier.wait()

    try:
        threads = [Thread(target=run) for run in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert seen == [(False, False)] and flags() == (True, True)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_a_setting_made_through_the_newer_interface_is_kept():
    products = torch.backends.cuda.matmul
    if not hasattr(products, "fp32_precision"):
        pytest.skip("this torch has only allow_tf32")
    before = flags()
    try:
        products.fp32_precision = "tf32"
        with full_float32.full_float32():
            assert products.fp32_precision == "ieee"
        assert products.fp32_precision == "tf32"
        assert full_float32.may_round(torch.empty(1, device="meta")) is False
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
