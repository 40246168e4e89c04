"""`seqformer kernels package`, read by the registry package `kernels` itself.

pytest -m integrations tests/kernels/integrations
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from seqformer.tools.kernel_package import write_package

hub = pytest.importorskip("kernels.layer", reason="no registry package kernels")
pytestmark = pytest.mark.integrations


def test_the_hub_loads_it_with_nothing_of_ours_on_the_path(tmp_path):
    """Build file, metadata and digest by the hub's own readers; then its layer in a model."""
    folder = tmp_path / "kernel"
    write_package(folder, "seqformer-kernels", 1)
    code = f"""
import sys
from pathlib import Path
import torch
from kernels import LocalLayerRepository, Mode, get_local_kernel, kernelize
from kernels import replace_kernel_forward_from_hub, use_kernel_mapping
from kernels._rust import Build, Digest, DigestAlgorithm, Metadata

folder = Path({str(folder)!r})
Build.open(folder)
for variant in (folder / "build").iterdir():
    digest = Digest.hash_variant(DigestAlgorithm.SHA256, variant)
    Metadata.read_from_file(variant / "metadata.json").digest.validate(digest)
kernel = get_local_kernel(folder)
assert "layers" in kernel.__all__

class Attention(torch.nn.Module):
    def forward(self, value, value_spatial_shapes, value_spatial_shapes_list, level_start_index,
                sampling_locations, attention_weights, im2col_step):
        raise AssertionError("not replaced")

replace_kernel_forward_from_hub(Attention, "MultiScaleDeformableAttention")
layer = LocalLayerRepository(folder, layer_name="MultiScaleDeformableAttention")
model = torch.nn.Sequential(Attention())
mode = Mode.TRAINING | Mode.TORCH_COMPILE
with use_kernel_mapping({{"MultiScaleDeformableAttention": {{"cpu": layer}}}}):
    kernelize(model, mode=mode, device="cpu", use_fallback=False)
value = torch.ones(1, 6, 1, 4, requires_grad=True)
locations, weights = torch.full((1, 2, 1, 1, 3, 2), 0.5), torch.full((1, 2, 1, 1, 3), 0.25)
given = (value, None, [(2, 3)], None, locations, weights, 64)
for call in (model[0], torch.compile(model[0], fullgraph=True, backend="aot_eager")):
    output = call(*given)
    assert torch.allclose(output, torch.tensor(0.75)), output
    output.sum().backward()
assert not any(name.startswith("seqformer") for name in sys.modules)
print("ok")
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.endswith("ok\n"), done.stderr
