"""Statistics of observed activations: for each channel a logarithmic histogram, the mean and the maximum.

One pass with logarithmic bins suffices: a smoothing factor shifts a channel's histogram, and ranges are chosen
afterwards by any method. Correlations of channels are kept within blocks of at most 256, so that the memory is
channels x 2 x 256 x 4 bytes, whatever is observed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "CENTERS", "EDGES", "PER_OCTAVE", "ChannelStatistics"]

Floats = npt.NDArray[np.float64]
PER_OCTAVE = 8
_LOWEST, _HIGHEST = -16, 16  # FP16's maximum is below 2^16; values below 2^-16 do not affect an 8 bit scale
BINS = (_HIGHEST - _LOWEST) * PER_OCTAVE
_BLOCK = 256
# Edges of the bins, [BINS + 1].
EDGES: Floats = np.concatenate([[0.0], 2.0 ** (_LOWEST + np.arange(1, BINS + 1) / PER_OCTAVE)])
# Center of each bin; the lowest bin counts zeros and all smaller values.
CENTERS: Floats = 2.0 ** (_LOWEST + (np.arange(BINS) + 0.5) / PER_OCTAVE)
CENTERS[0] = 0.0


@dataclass
class ChannelStatistics:
    """Statistics of the absolute values of one tensor, by channel.

    Attributes:
        amax: Largest value of each channel over all observations, [channels].
        total: Sum over observations of each channel's signed mean, [channels].
        count: Number of observations.
        histogram: Values in each bin, of a sample of the rows, uint32 [channels, BINS].
        products: Sum of the products of channels over the same rows, float32 [blocks, size, size]; the last block is
            padded with zeros.
    """

    amax: npt.NDArray[np.float32]
    total: Floats
    count: int
    histogram: npt.NDArray[np.uint32]
    products: npt.NDArray[np.float32]

    @classmethod
    def empty(cls, channels: int) -> ChannelStatistics:
        """Return statistics without observations."""
        blocks = -(-channels // _BLOCK)
        size = -(-channels // blocks)
        return cls(
            np.zeros(channels, np.float32),
            np.zeros(channels),
            0,
            np.zeros((channels, BINS), np.uint32),
            np.zeros((blocks, size, size), np.float32),
        )

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.amax.nbytes + self.total.nbytes + self.histogram.nbytes + self.products.nbytes

    @property
    def mean(self) -> Floats:
        """Mean of each channel, [channels]."""
        return self.total / max(self.count, 1)

    def add(
        self, rows: npt.NDArray[np.float32], *, amax: npt.NDArray[np.float32], mean: npt.NDArray[np.float32]
    ) -> None:
        """Add an observation.

        Args:
            rows: Sampled vectors of the tensor, [n, channels].
            amax: Largest absolute value of each channel over all vectors, [channels].
            mean: Mean of each channel over all vectors, [channels].
        """
        channels = len(self.amax)
        np.maximum(self.amax, amax, out=self.amax)
        self.total += mean
        self.count += 1
        flat = _bins(np.abs(rows)) + np.arange(channels) * BINS
        counted = np.bincount(flat.reshape(-1), minlength=channels * BINS)
        self.histogram += counted.reshape(channels, BINS).astype(np.uint32)
        split = self._split(rows)
        self.products += split.transpose(0, 2, 1) @ split

    def scaled(self, factors: Floats) -> ChannelStatistics:
        """Return the statistics of the same tensor with each channel multiplied by a positive factor, [channels].

        Histograms move by whole bins: for them, factors are rounded to powers of 2^(1/8).
        """
        moves = np.rint(np.log2(factors) * PER_OCTAVE).astype(np.int64)
        places = np.arange(BINS)[None] - moves[:, None]
        moved = np.take_along_axis(self.histogram, np.clip(places, 0, BINS - 1), axis=1)
        moved = np.where((places >= 1) & (places < BINS), moved, 0).astype(np.uint32)
        # Values shifted beyond either end stay in the last bin there, so that no count is lost.
        moved[:, 0] += (self.histogram.sum(1) - moved.sum(1)).astype(np.uint32)
        split = self._split(factors[None])
        products = (self.products * split.transpose(0, 2, 1) * split).astype(np.float32)
        return ChannelStatistics(
            (self.amax * factors).astype(np.float32), self.total * factors, self.count, moved, products
        )

    def squares(self) -> Floats:
        """Return the mean square of each channel, [channels]."""
        counts = self.histogram.astype(np.float64)
        mean: Floats = counts @ CENTERS**2 / np.maximum(counts.sum(1), 1)
        return mean

    def mean_products(self) -> Floats:
        """Return the mean over rows of the products of channels, [blocks, size, size]."""
        rows = int(self.histogram[0].sum())
        mean: Floats = self.products.astype(np.float64) / max(rows, 1)
        return mean

    def _split(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return vectors [n, channels] split into blocks, [blocks, n, size]."""
        blocks, size, _ = self.products.shape
        filled = np.pad(rows, ((0, 0), (0, blocks * size - rows.shape[1])))
        return filled.reshape(len(rows), blocks, size).transpose(1, 0, 2)


def _bins(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    with np.errstate(divide="ignore"):
        octaves = np.log2(values) - _LOWEST
    bins: npt.NDArray[np.int64] = np.clip(np.nan_to_num(octaves * PER_OCTAVE, neginf=0.0), 0, BINS - 1).astype(np.int64)
    return bins
