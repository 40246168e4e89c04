"""How far an AP can be trusted: confidence intervals from videos drawn again and again.

The validation set is one draw of videos. Drawing as many from it with replacement, a thousand
times, shows how much the AP depends on which videos were drawn. Whole videos are drawn, because
results within a video are not independent. Matches are reused: see `accumulator`.

A resample repeats some videos and lacks others, and its AP is therefore a little too high on
average. The intervals are corrected for that: bias-corrected percentiles (Efron & Tibshirani, "An
Introduction to the Bootstrap", 1993, section 14.3 without acceleration).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: np.ndarray) -> Interval:
        """From the values of the resamples [W], of which -1 are left out: nothing to measure."""
        valid = resampled[resampled != -1]
        if value == -1 or not valid.size:
            return cls(float(value), -1.0, -1.0)
        return cls.around(value, valid)

    @classmethod
    def around(cls, value: float, resampled: np.ndarray) -> Interval:
        """From the values of the resamples [W], which may be any."""
        below = np.mean(resampled < value) + np.mean(resampled == value) / 2
        half_a_resample = 0.5 / resampled.size
        shift = 2 * _NORMAL.inv_cdf(float(np.clip(below, half_a_resample, 1 - half_a_resample)))
        tail = _NORMAL.inv_cdf((1 - CONFIDENCE) / 2)
        shares = _NORMAL.cdf(shift + tail), _NORMAL.cdf(shift - tail)
        low, high = np.quantile(resampled, shares)
        return cls(float(value), min(float(low), value), max(float(high), value))


def resample_weights(num_videos: int, resamples: int, seed: int) -> np.ndarray:
    """How often each video is drawn, [W, V]: `num_videos` draws with replacement, W times.

    Raises: ValueError for a number of resamples below 1 or a negative seed.
    """
    if resamples < 1:
        raise ValueError(f"the number of bootstrap resamples must be at least 1, got {resamples}")
    if seed < 0:
        raise ValueError(f"the bootstrap seed must be 0 or more, got {seed}")
    if not num_videos:
        return np.zeros((resamples, 0), np.int64)
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_videos, np.full(num_videos, 1 / num_videos), size=resamples)
