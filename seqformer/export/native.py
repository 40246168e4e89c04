"""The graph as machine code: compiled by AOTInductor, in a package with its description.

A package holds a shared library. Loading it runs what is inside, so it is read only where the
caller says so.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..model import SeqFormer
from .graph import ClipGraph
from .mask_head import Drawing, draw_masks, draw_masks_by_triton
from .sampling import Sampling, Shapes, by_triton_kernel, in_plain_operators

FOLDER = "data/aotinductor/"
"""Of a .pt2, where machine code is."""
GPU_REMEDY = "format aoti-cuda compiles for the GPU of this machine, and torch sees none"
COMPILER_REMEDY = "machine code needs a C++ compiler to be made; install g++, or take --format pt2"


class NativeGraph(ClipGraph):
    """A `ClipGraph` whose sizes inductor can work with.

    Of torch 2.13, it compares strides by taking remainders. Where they are products of quotients of
    the images' sides, such a remainder gets a size into its denominator, which bounds of sizes
    cannot have (`ValueRangeError: Invalid ranges [0:-1]`). And the indices of every kernel would be
    simplified with these quotients. So the maps that go into the encoder get sizes of their own,
    which are read from tensors (`_own_size`); the mask branch, whose convolutions need sizes that
    follow from the images', gets them back; and results are no views, of which strides are
    compared.
    """

    def __init__(
        self,
        model: SeqFormer,
        sample: Sampling,
        num_drawn: int,
        draw: Drawing = draw_masks,
    ) -> None:
        super().__init__(model, sample, num_drawn, draw)
        self.nothing = nn.Buffer(torch.zeros(()))
        make_maps, branch = self.model.pyramid, self.model.mask_branch
        shapes: list[tuple[int, int]] = []

        def pyramid(frames: Tensor) -> list[Tensor]:
            maps = make_maps(frames)
            shapes[:] = [(x.shape[2], x.shape[3]) for x in maps]
            return [_with_own_sizes(x) for x in maps]

        def mask_features(memory: Tensor, own_shapes: Shapes, has_place: bool) -> Tensor:
            maps, start = [], 0
            for (h, w), (own_h, own_w) in list(zip(shapes, own_shapes, strict=True))[:3]:
                level = memory[0].index_select(1, torch.arange(h * w) + start)
                maps.append(level.transpose(1, 2).unflatten(2, (h, w)))
                start = start + own_h * own_w
            return branch(*maps)[None]

        # These go before the methods.
        vars(self.model).update(pyramid=pyramid, mask_features=mask_features)

    def forward(self, images: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """As `ClipGraph.forward`."""
        results = super().forward(images, state)
        return tuple(x + self.nothing if x.is_floating_point() else x for x in results)


def _with_own_sizes(x: Tensor) -> Tensor:
    """[n, C, h, w], h and w sizes of their own."""
    h, w = _own_size(x.shape[2]), _own_size(x.shape[3])
    return x.narrow(2, 0, h).narrow(3, 0, w)


def _own_size(size: int) -> int:
    """The same number, of which a graph knows no formula."""
    own: Any = torch.full((), size, dtype=torch.int64).item()  # a symbol while tracing
    torch._check(own >= 2)
    torch._check(own <= size)
    return own


def native_graph(model: SeqFormer, num_drawn: int, device: torch.device) -> NativeGraph:
    """On the CPU, where it is traced. For a GPU, with the Triton kernels."""
    if device.type == "cpu":
        return NativeGraph(model, in_plain_operators, num_drawn)
    return NativeGraph(model, by_triton_kernel, num_drawn, draw_masks_by_triton)


def is_package(names: Iterable[str]) -> bool:
    """Whether records of a .pt2 are those of a package."""
    return any(name.startswith(FOLDER) for name in names)


def device_of(records: Mapping[str, bytes]) -> str:
    """What a package is compiled for: "cpu", "cuda"."""
    for name, content in records.items():
        if name.startswith(FOLDER) and name.endswith("_metadata.json"):
            with suppress(ValueError, LookupError, TypeError):
                return str(json.loads(content)["AOTI_DEVICE_KEY"])
    return "cpu"


def compiled(
    program: ExportedProgram,
    example: tuple[Tensor, ...],
    extra_files: dict[str, str],
    device: torch.device,
) -> bytes:
    """Compile for this machine's CPU, any number of threads, or for its GPU. Takes minutes. The
    source is left out: nothing reads it, and it tells how the compiler was called.

    Args:
        program: of a `NativeGraph`.
        example: inputs; sizes that the program leaves open stay open.
        extra_files: name -> text, for the package.

    Raises: ValueError where no compiler is at hand.
    """
    if device.type != "cpu":
        program = on_device(program, device)
        example = tuple(x.to(device) for x in example)
    from torch._inductor import aot_compile
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.export.pt2_archive._package import package_pt2

    options: dict[str, Any] = {
        "aot_inductor.package": True,
        "layout_optimization": False,  # brings weights of convolutions into a layout in every call
        "cpp.dynamic_threads": True,
    }
    module: Any = program.module()
    try:
        with torch.no_grad(), _whole_grid_sample():
            files: Any = aot_compile(module, example, options=options)
    except Exception as error:  # inductor wraps it in an error of its own
        if "InvalidCxxCompiler" in str(error) or isinstance(error, InvalidCxxCompiler):
            raise ValueError(COMPILER_REMEDY) from None
        raise
    files = [f for f in files if not (isinstance(f, str) and f.endswith(".cpp"))]
    content = io.BytesIO()
    package_pt2(content, aoti_files=files, extra_files=extra_files)
    return content.getvalue()


def on_device(program: ExportedProgram, device: torch.device) -> ExportedProgram:
    """A program of the CPU moved, but for what sizes are read from, so that no call waits."""
    from torch.export.passes import move_to_device_pass

    program = move_to_device_pass(program, str(device))
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.item.default:
            (source,) = node.all_input_nodes
            source.kwargs = source.kwargs | {"device": torch.device("cpu")}
            source.meta["val"] = source.meta["val"].cpu()
    return program


@contextmanager
def _whole_grid_sample() -> Iterator[None]:
    """Let grid_sample be one call: written out, it would be most of what is compiled."""
    from torch._inductor.decomposition import decompositions

    operator = torch.ops.aten.grid_sampler_2d.default
    written_out = decompositions.pop(operator)
    try:
        yield
    finally:
        decompositions[operator] = written_out


def loaded(content: bytes, device: torch.device) -> Any:
    """The compiled graph of a package, a function on tensors. Runs code of the package.

    Raises: RuntimeError when it is damaged or made for another machine.
    """
    from torch._inductor import aoti_load_package

    with NamedTemporaryFile(suffix=".pt2") as file:  # torch's loader reads files only
        file.write(content)
        file.flush()
        index = -1 if device.index is None else device.index
        return aoti_load_package(file.name, device_index=index)
