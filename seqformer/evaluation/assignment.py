"""The best one-to-one assignment of rows to columns."""

from __future__ import annotations

import numpy as np


def assign(gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and their columns, [min(N, M)] each, with the largest sum of `gain` [N, M], N, M >= 1.

    Ties fall as in scipy's `linear_sum_assignment`, whose loading is put off until it is needed:
    with one row or column the first largest entry is the answer.
    """
    rows, columns = gain.shape
    if rows == 1:
        return np.zeros(1, np.int64), np.array([gain[0].argmax()])
    if columns == 1:
        return np.array([gain[:, 0].argmax()]), np.zeros(1, np.int64)
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(-gain)
