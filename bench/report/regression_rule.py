"""Whether a case became slower or larger since the record before: the rule, and nothing else.

A case is named when

1. the new median exceeds the old by more than 5 %,
2. the new 20 % quantile lies above the old 80 % quantile, and
3. the change exceeds 3.5 standard errors of the two medians.

The last condition matters where rounds are few: quantiles of five rounds are nearly chosen by
chance, and by the first two alone noise of 3 % names one case in a hundred. For the same reason a
case's noise counts at least as much as the typical case's of the two records; five rounds that
happen to agree prove little. With it, noise names about one case in five thousand, and a slowdown
of 20 % under noise of 3 % is named nine times in ten with five rounds, always with ten.

On a GPU the quantity is the time of ours. On a CPU, seconds of two days are not comparable (shared
machines), so it is the share of the baseline's time, round by round, which both sides of a round
suffer alike. Memory is one number a run: more than 5 % and more than 1 MiB, found the same way.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np

SLOWER = 0.05
STANDARD_ERRORS = 3.5
LARGER = 0.05
LARGER_BYTES = 2**20
COMPARED = ("shapes", "dtype", "direction", "op")
INNER_SPREAD = 1.683
"""Distance of the 20 and 80 percent quantiles of normal noise, in standard deviations."""
MEDIAN_ERROR = 1.253
"""Standard error of a median of n values times sqrt(n), in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One case in two records.

    Attributes:
        time, memory: new / old; None where one of them is missing.
        is_slower, is_larger: named by the rule.
        obstacle: why time is not judged, as a clause; None where it is.
    """

    time: float | None = None
    memory: float | None = None
    is_slower: bool = False
    is_larger: bool = False
    obstacle: str | None = None


def compare(
    old: Mapping[str, Any], new: Mapping[str, Any], kind: str, typical: float = 0.0
) -> Comparison:
    """Judge a case of a record against the same case of the record before.

    Args:
        old, new: rows as `bench.suite.record.case_row` makes them.
        kind: "cpu" or "cuda", of the machine.
        typical: noise that a case is taken to have at least, as `typical_noise` finds it.
    """
    changed = [key for key in COMPARED if old.get(key) != new.get(key)]
    if changed:
        return Comparison(obstacle=f"its {' and '.join(changed)} changed")
    memory, is_larger = _memory(old["sides"]["ours"], new["sides"]["ours"])
    try:
        before, after = quantity(old, kind), quantity(new, kind)
    except ValueError as error:
        return Comparison(memory=memory, is_larger=is_larger, obstacle=str(error))
    return Comparison(
        time=statistics.median(after) / statistics.median(before),
        memory=memory,
        is_slower=is_slower(before, after, typical),
        is_larger=is_larger,
    )


def quantity(row: Mapping[str, Any], kind: str) -> list[float]:
    """What is compared: seconds of ours, or on a CPU its share of the baseline's by round.

    Raises: ValueError: there is no baseline to divide by, or not round by round.
    """
    ours = row["sides"]["ours"]["seconds"]["samples"]
    if kind != "cpu":
        return list(ours)
    baseline = row["sides"].get(row["baseline"])
    if baseline is None:
        raise ValueError(f"the baseline, {row['baseline']}, was not measured beside it")
    theirs = baseline["seconds"]["samples"]
    if len(theirs) != len(ours):
        raise ValueError(f"{len(ours)} rounds of ours stand beside {len(theirs)} of the baseline")
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def is_slower(before: Sequence[float], after: Sequence[float], typical: float = 0.0) -> bool:
    """The rule, on the quantities of two records."""
    change = statistics.median(after) / statistics.median(before)
    if change <= 1 + SLOWER or np.quantile(after, 0.2) <= np.quantile(before, 0.8):
        return False
    own = sqrt((noise(before) ** 2 + noise(after) ** 2) / 2)
    error = MEDIAN_ERROR * max(own, typical) * sqrt(1 / len(before) + 1 / len(after))
    return log(change) > STANDARD_ERRORS * error


def noise(values: Sequence[float]) -> float:
    """Relative standard deviation of rounds, from their inner quantiles, which no outlier moves."""
    low, high = np.quantile(values, (0.2, 0.8))
    return float(high - low) / INNER_SPREAD / statistics.median(values)


def typical_noise(rows: Iterable[Mapping[str, Any]], kind: str) -> float:
    """Median noise of the cases of a run that can be judged; 0 without any."""
    found = []
    for row in rows:
        try:
            found.append(noise(quantity(row, kind)))
        except ValueError:
            continue
    return statistics.median(found) if found else 0.0


def _memory(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[float | None, bool]:
    before, after = old["peak_bytes"], new["peak_bytes"]
    if not before or after is None or old.get("peak_method") != new.get("peak_method"):
        return None, False
    return after / before, after > (1 + LARGER) * before and after - before > LARGER_BYTES
