"""All proofs, and the kernels that they must cover."""

from __future__ import annotations

from bench.offline.emulator.proofs import (
    deformable_attention,
    determinism,
    frame_masks,
    graphs,
    large,
    large_gradients,
    mask_head,
    whole_runs,
)
from bench.offline.emulator.proofs.proof import EXTENTS, Extent, Proof, Row, run_proof

MODULES = (
    deformable_attention,
    mask_head,
    frame_masks,
    graphs,
    determinism,
    large,
    large_gradients,
    whole_runs,
)


def all_proofs(extent: Extent = "default") -> list[Proof]:
    """Proofs of a run of this extent, in order."""
    reach = EXTENTS.index(extent)
    return [
        proof
        for module in MODULES
        for proof in module.proofs()
        if EXTENTS.index(proof.extent) <= reach
    ]


__all__ = ["EXTENTS", "Extent", "Proof", "Row", "all_proofs", "run_proof"]
