"""Which parameters a kernel may write through, and how narrow its accesses are, read from its code.

What no store and no atomic can reach is read only, so that reads of it need not be watched for
races. Sets of parameters flow from operands to results, whatever the instruction, until nothing
changes; what memory holds is of unknown origin.
"""

from __future__ import annotations

import numpy as np

from bench.offline.emulator.decode import Code
from bench.offline.emulator.forms import column
from bench.offline.emulator.ptx import Kernel
from bench.offline.emulator.rows import SPACES


def written_parameters(kernel: Kernel, code: Code, operations: dict[str, int]) -> set[int] | None:
    """Indices of parameters, or None where an address comes from somewhere else."""
    of_place = {}
    for slot in code.parameter_slots:
        for k, parameter in enumerate(kernel.parameters):
            if parameter.offset <= slot.offset < parameter.offset + parameter.size:
                of_place[slot.place] = 1 << k
    flows, stores = _flows(code, operations, of_place)
    origins = [0] * code.num_registers
    changed = True
    while changed:
        changed = False
        for destinations, sources, origin in flows:
            for s in sources:
                origin |= origins[s]
            for d in destinations:
                if origin & ~origins[d]:
                    origins[d] |= origin
                    changed = True
    reached = 0
    for register, origin in stores:
        origin |= origins[register]
        if not origin:
            return None
        reached |= origin
    return {k for k in range(len(kernel.parameters)) if reached >> k & 1}


def narrowest_shift(code: Code, operations: dict[str, int]) -> int:
    """Logarithm of the bytes of the narrowest access, at most 2."""
    names = ("ld", "st", "atom")
    is_access = np.isin(code.rows[:, column("operation")], [operations[n] for n in names])
    sizes = code.rows[is_access, column("size")]
    return min(int(sizes.min(initial=4)), 4).bit_length() - 1


def _flows(
    code: Code, operations: dict[str, int], of_place: dict[int, int]
) -> tuple[list[tuple[list[int], list[int], int]], list[tuple[int, int]]]:
    """(destinations, sources, parameters read) of what computes, and the addresses of stores."""
    loads = operations["ld"]
    writers = (operations["st"], operations["atom"])
    first_d, first_s = column("destinations"), column("sources")
    columns = {n: column(n) for n in ("operation", "num_destinations", "num_sources", "space")}
    flows: list[tuple[list[int], list[int], int]] = []
    stores: list[tuple[int, int]] = []
    own = (SPACES["shared"], SPACES["local"])
    for row in code.rows.tolist():
        operation = row[columns["operation"]]
        if operation in writers:
            if row[columns["space"]] not in own:
                stores.append((row[first_s + 1], of_place.get(row[first_s], 0)))
            continue
        if operation == loads:
            continue
        destinations, sources, origin = [], [], 0
        for k in range(row[columns["num_destinations"]]):
            _, number, bits = row[first_d + 3 * k : first_d + 3 * k + 3]
            if bits > 1 and number > 1:
                destinations.append(number)
        if not destinations:
            continue
        for k in range(row[columns["num_sources"]]):
            place, number, bits = row[first_s + 3 * k : first_s + 3 * k + 3]
            if bits > 1 and number > 1:
                sources.append(number)
            origin |= of_place.get(place, 0)
        if sources or origin:
            flows.append((destinations, sources, origin))
    return flows, stores
