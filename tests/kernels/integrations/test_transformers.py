"""Models of transformers, as installed: our operator against the library's own path.

pytest -m integrations tests/kernels/integrations
"""

from __future__ import annotations

import pytest
import torch

from bench.baselines import families
from kernels import integrations

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.integrations


def step(model, given):
    """Outputs and every gradient, of images too."""
    given = {n: x.requires_grad_() if x.is_floating_point() else x for n, x in given.items()}
    outputs = dict(families.floats(model(**given)))
    leaves = [x for x in given.values() if x.requires_grad]
    leaves += [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = sum(x.clamp(-50, 50).square().mean() for x in outputs.values() if x.requires_grad)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return outputs, [torch.zeros(1) if g is None else g for g in grads]


def worst(results, targets, floor=0.0):
    """The largest difference, each as a share of the target's largest value."""
    errors = [0.0]
    for result, target in zip(results, targets, strict=True):
        finite = target[target.isfinite()]
        assert torch.equal(target.isfinite(), result.isfinite())
        if finite.numel() and (top := finite.abs().max()) > floor:
            errors.append(float(((result[result.isfinite()] - finite).abs().max() / top).detach()))
    return max(errors)


def check(model, given, patch_for):
    targets, target_grads = step(model, given)
    with patch_for(model):
        results, grads = step(model, given)
    restored, _ = step(model, given)
    assert worst(results.values(), targets.values()) < 1e-5
    # a bias before softmax has no gradient but rounding: what is nothing beside the rest is left
    largest = max(float(g.abs().max()) for g in target_grads)
    assert worst(grads, target_grads, 1e-12 * largest) < 1e-5
    for name, target in targets.items():
        assert torch.equal(restored[name], target), name


def double(given):
    return {n: x.double() if x.is_floating_point() else x for n, x in given.items()}


@pytest.mark.parametrize("way", ["plain", "auto"])
@pytest.mark.parametrize("name", list(families.FAMILIES))
def test_outputs_and_all_gradients(name, way):
    """In float64, where what differs is no rounding; float32 is in the table of the docs."""
    if name not in families.available():
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    model = families.build(name, small=True).double()
    given = double(families.inputs(name, 96, 128, images=2))
    check(model, given, lambda m: integrations.use_in_transformers(m, way))


@pytest.mark.parametrize("name", ["DeformableDetr", "Mask2Former", "DFine"])
def test_something_is_replaced(name, monkeypatch):
    """The outputs agree because ours ran, not because nothing changed."""
    from kernels.integrations import for_transformers, layers

    calls = []

    def spy(value, *arguments):
        calls.append(value.shape)
        return torch.zeros(value.shape[0], arguments[1].shape[1], value.shape[2:].numel())

    for module in (layers, for_transformers):
        monkeypatch.setattr(module, "ms_deform_attn", spy)
    model, given = families.build(name, small=True), families.inputs(name, 96, 128)
    with torch.no_grad(), integrations.use_in_transformers(model):
        model(**given)
    assert len(calls) >= 2


def test_kernelize_takes_our_layer_and_leaves_others_alone():
    kernels = pytest.importorskip("kernels.layer", reason="no registry package kernels")
    model = families.build("DeformableDetr", small=True).double()
    given = double(families.inputs("DeformableDetr", 96, 128))
    check(model, given, lambda m: integrations.use_in_transformers(m, "kernelize"))
    layers = [m for m in model.modules() if type(m).__name__ == "MultiScaleDeformableAttention"]
    with integrations.use_in_transformers(model, "kernelize"):
        ours = integrations.MultiScaleDeformableAttention.forward
        assert layers and all(m.forward.__func__ is ours for m in layers)
    if hasattr(type(layers[0]), "kernel_layer_name"):  # this pair of versions works together
        mode = kernels.Mode.TRAINING | kernels.Mode.TORCH_COMPILE
        with kernels.use_kernel_mapping(integrations.kernel_mapping()):
            kernels.kernelize(model, mode=mode, device="cpu")
        assert all(m.forward.__func__ is ours for m in layers)


def test_two_models_of_a_family_are_patched_and_undone_in_turn():
    first, second = (families.build("Mask2Former", small=True, seed=s) for s in (0, 1))
    module = __import__(type(first).__module__, fromlist=["_"])
    original = module.multi_scale_deformable_attention
    one, two = integrations.use_in_transformers(first), integrations.use_in_transformers(second)
    two.undo()
    assert module.multi_scale_deformable_attention is not original
    one.undo()
    assert module.multi_scale_deformable_attention is original
