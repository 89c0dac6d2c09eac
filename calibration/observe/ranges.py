"""Choice of clipping ranges: from a histogram to the largest value that the 8 bit type represents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from .statistics import CENTERS, EDGES

if TYPE_CHECKING:
    from ..graph.formats import Format

__all__ = ["METHODS", "Method", "choose_amax", "input_error"]

Method = Literal["max", "percentile", "mse", "entropy"]
METHODS: tuple[str, ...] = get_args(Method)
Floats = npt.NDArray[np.float64]

_PERCENTILE = 0.9999
# Clips that are tried, as fractions of the largest value.
_PARTS = 2.0 ** (-np.arange(25) / 8)
_ENTROPY_BINS = 2048


def choose_amax(
    method: Method, histogram: npt.NDArray[np.uint32], amax: npt.NDArray[np.float32], weights: Floats, kind: Format
) -> float:
    """Return the value at which a tensor clips.

    Args:
        method: "max" clips nothing; "percentile" keeps 99.99 % of the values; "mse" minimizes the error of the
            products; "entropy" minimizes the Kullback-Leibler divergence (Migacz 2017), and is for INT8.
        histogram: Histogram of each channel, [channels, BINS].
        amax: Largest value of each channel, [channels].
        weights: Weight of each channel's squared error: the squared norm of its column of weights, [channels].
        kind: The 8 bit type.
    """
    highest = float(amax.max(initial=0.0))
    if highest == 0.0 or method == "max":
        return highest
    pooled = histogram.sum(0, dtype=np.float64)
    if method == "percentile":
        return min(highest, _percentile(pooled))
    tried = highest * _PARTS
    if method == "entropy":
        losses = [_divergence(pooled, clip) for clip in tried]
    else:
        losses = [float(input_error(histogram, clip, kind) @ weights) for clip in tried]
    return float(tried[int(np.argmin(losses))])


def input_error(histogram: npt.NDArray[np.uint32], clip: float, kind: Format) -> Floats:
    """Return the expected squared error of each channel's values when they clip at ``clip``, [channels]."""
    counts = histogram.astype(np.float64)
    expected = np.where(CENTERS > clip, (CENTERS - clip) ** 2, kind.rounding_error(CENTERS, clip))
    error: Floats = counts @ expected / np.maximum(counts.sum(1), 1)
    return error


def _percentile(pooled: Floats) -> float:
    share = np.cumsum(pooled) / max(pooled.sum(), 1)
    return float(CENTERS[min(int(np.searchsorted(share, _PERCENTILE)), len(CENTERS) - 1)])


def _divergence(pooled: Floats, clip: float) -> float:
    """Return the divergence between a distribution and its form clipped and quantized to 128 levels."""
    wanted = _linear(pooled, clip)
    levels = wanted.reshape(128, -1)
    filled = levels > 0
    spread = np.where(filled, levels.sum(1, keepdims=True) / np.maximum(filled.sum(1, keepdims=True), 1), 0.0)
    p, q = wanted / wanted.sum(), spread.reshape(-1) / spread.sum()
    # Clipped values count in the last bin of the wanted distribution but not among the levels, so that clipping costs.
    outside = pooled[clip < CENTERS].sum() / max(pooled.sum(), 1)
    seen = p > 0
    return float((1 - outside) * np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))) + outside * np.log(1e6))


def _linear(pooled: Floats, clip: float) -> Floats:
    """Resample logarithmic bins to linear ones from 0 to ``clip``."""
    cumulative = np.concatenate([[0.0], np.cumsum(pooled)])
    at = np.interp(np.linspace(0, clip, _ENTROPY_BINS + 1), EDGES, cumulative)
    spread: Floats = np.diff(at) + 1e-9
    return spread
