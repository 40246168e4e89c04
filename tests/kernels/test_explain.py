"""`kernels.explain` says what a call does, and why nobody else answers it; the public contract."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from unittest import mock

import pytest
import torch

import kernels
from kernels import backend, c_library
from kernels.device import DeviceFacts, replaced


class EmulatedGPU(DeviceFacts):
    """Tensors of the CPU stand for those of a GPU."""

    def is_gpu(self, device):
        return device.type == "cpu"


def calls(dtype=torch.float32):
    """Per operator: the call that `explain` is asked about."""
    g = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=g).to(dtype)

    value, offsets, logits = random(1, 6, 1, 4), random(1, 2, 1, 1, 1, 2), random(1, 2, 1, 1, 1)
    reference, valid = torch.rand(1, 2, 1, 2), torch.tensor([[[2, 3]]], dtype=torch.int32)
    head = (random(1, 1, 8, 2, 3), random(2, 169), random(2, 1, 2), torch.zeros(2).long())
    targets = torch.zeros(2, 1, 4, 6, dtype=torch.bool)
    shapes = [(2, 3)]
    return {
        kernels.ms_deform_attn: (value, shapes, offsets, logits),
        kernels.ms_deform_attn_fused: (value, shapes, offsets, logits, reference, valid),
        kernels.dynamic_mask_head: head,
        kernels.dynamic_mask_loss: (*head, targets),
        kernels.threshold_masks: (random(1, 2, 3), (4, 6)),
    }


FOLDERS = {
    kernels.ms_deform_attn: kernels.deformable_attention,
    kernels.ms_deform_attn_fused: kernels.deformable_attention,
    kernels.dynamic_mask_head: kernels.mask_head,
    kernels.dynamic_mask_loss: kernels.mask_loss,
    kernels.threshold_masks: kernels.frame_masks,
}
NAMES = [function.__name__ for function in FOLDERS]


def who_answers(operator, arguments) -> str:
    """Make the call, and see which files of the operator's folder it comes to."""
    folder = FOLDERS[operator]
    launch = import_module(f"{folder.__name__}.launch")
    came_to = []

    def noted(name, real):
        def call(*given, **options):
            came_to.append(name)
            return real(*given, **options)

        return call

    places = {"triton": (launch, "forward"), "cpu": (folder.cpu, "forward")}
    if hasattr(folder, "cpu_torch"):
        places["torch"] = (folder.cpu_torch, "forward")
    name = operator.__name__
    places["reference"] = (folder.reference, name.removesuffix("_reference"))
    with ExitStack() as stack:
        for place, (module, function) in places.items():
            noting = noted(place, getattr(module, function))
            stack.enter_context(mock.patch.object(module, function, noting))
        operator(*arguments)
    if came_to[0] != "cpu":
        return came_to[0]
    return "torch" if len(came_to) > 1 else "c"


@pytest.fixture(params=[True, False], ids=["compiler", "no compiler"])
def has_compiler(request, monkeypatch):
    if request.param and c_library._compiler() is None:
        pytest.skip("no C compiler")
    if not request.param:
        monkeypatch.setenv(c_library.DISABLE_VARIABLE, "0")
    c_library.library.cache_clear()
    yield request.param
    monkeypatch.undo()
    c_library.library.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("asked", ["auto", "reference", "triton"])
@pytest.mark.parametrize("name", NAMES)
def test_the_call_takes_what_was_explained(name, asked, dtype, has_compiler):
    operator = getattr(kernels, name)
    arguments = calls(dtype)[operator]
    if asked == "triton" and dtype == torch.float64:
        pytest.skip("Triton kernels refuse float64")
    if asked == "triton":
        pytest.importorskip("triton")
        if not DeviceFacts().is_interpreted(torch.device("cpu")):
            pytest.skip("kernels are not interpreted")
    with kernels.use_backend(asked):
        told = kernels.explain(operator, *arguments)
        assert told.implementation == who_answers(operator, arguments)
    everyone = {"triton", "c", "torch", "reference"}
    assert told.why_not.keys() == everyone - {told.implementation}
    assert all(told.why_not.values()) and told.implementation in str(told)


@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu(name):
    """Nothing is launched: the answers alone are asked for."""
    operator = getattr(kernels, name)
    with replaced(EmulatedGPU()):
        assert kernels.explain(operator, *calls()[operator]).implementation == "triton"
        told = kernels.explain(operator, *calls(torch.float64)[operator])
        assert told.implementation == "reference" and "float64" in told.why_not["triton"]
        with mock.patch.object(backend, "is_triton_installed", lambda: False):
            told = kernels.explain(operator, *calls()[operator])
        assert told.implementation == "reference"
        assert told.why_not["triton"] == "triton is not installed"


def test_reasons_name_what_to_change(monkeypatch):
    monkeypatch.setenv(c_library.DISABLE_VARIABLE, "0")
    c_library.library.cache_clear()
    operator = kernels.dynamic_mask_head
    told = kernels.explain(operator, *calls()[operator])
    assert told.why_not["c"] == "SEQFORMER_KERNELS_NATIVE is 0"
    monkeypatch.undo()
    c_library.library.cache_clear()
    value, shapes, offsets, logits = calls()[kernels.ms_deform_attn]
    many = offsets.expand(1, 2, 1, 1, 1025, 2), logits.expand(1, 2, 1, 1, 1025)
    told = kernels.explain(kernels.ms_deform_attn, value, shapes, *many)
    assert told.implementation == "torch" and "1025 samples" in told.why_not["c"]


def test_what_would_be_refused_is_refused(monkeypatch):
    monkeypatch.setattr(DeviceFacts, "can_launch", lambda self, device: False)
    operator = kernels.threshold_masks
    with kernels.use_backend("triton"), pytest.raises(ValueError, match="move them to a GPU"):
        kernels.explain(operator, *calls()[operator])
    with pytest.raises(ValueError, match="no choice of implementations"):
        kernels.explain(kernels.encode_masks, *calls()[operator])


def test_public_contract():
    """Names that others build on: a change here is a change of the contract."""
    assert sorted(kernels.__all__) == [
        "Explanation",
        "MaskHeadConfig",
        "MaskLossSums",
        "RunLengths",
        "current_backend",
        "dynamic_mask_head",
        "dynamic_mask_head_reference",
        "dynamic_mask_loss",
        "encode_masks",
        "explain",
        "ms_deform_attn",
        "ms_deform_attn_fused",
        "ms_deform_attn_fused_reference",
        "ms_deform_attn_reference",
        "threshold_masks",
        "use_backend",
    ]
    assert all(hasattr(kernels, name) for name in kernels.__all__)


def test_what_runs_is_said_once_with_the_reason(monkeypatch, caplog):
    monkeypatch.setattr(backend, "_told", set())
    caplog.set_level("INFO")
    operator = kernels.threshold_masks
    for _ in range(2):
        kernels.ms_deform_attn(*calls()[kernels.ms_deform_attn])
        operator(*calls()[operator])
        with kernels.use_backend("reference"):
            operator(*calls()[operator])
    said = [r.getMessage() for r in caplog.records if "masks run as" in r.getMessage()]
    assert len(said) == 2
    assert "the CPU's own code: the tensors are not on a GPU" in said[0]
    assert "the plain PyTorch definition: the backend 'reference' was asked for" in said[1]
    assert all("SEQFORMER_KERNELS_BACKEND or use_backend() chooses" in text for text in said)
