"""Rounding of weights to 8 bits: to nearest, or by GPTQ.

A weight's rounding error is the same in every run, and a causal model accumulates it over the chunks: it matters more
than an activation's. GPTQ (Frantar et al. 2023, algorithm 1) rounds one input channel after the other and moves the
error of each into the channels that are yet to be rounded, as far as their inputs are correlated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ..observe.statistics import ChannelStatistics
    from .formats import Format

__all__ = ["Rounding", "decode_weight", "round_gptq", "round_nearest"]

Rounding = Literal["gptq", "nearest"]
Codes = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]

# Dampening: this fraction of the mean square is added to each channel's, because few rows give inexact correlations.
_DAMPING = 0.01


def round_nearest(weight: Weights, scales: Weights, kind: Format) -> Codes:
    """Return a weight's stored bytes, [outputs, inputs], in units of each row's scale [outputs]."""
    return kind.encode(weight / scales[:, None])


def decode_weight(codes: Codes, scales: Weights, kind: Format) -> Weights:
    """Return the values of stored bytes, float32 [outputs, inputs]."""
    decoded: Weights = kind.decode(codes) * scales[:, None]
    return decoded


def round_gptq(weight: Weights, scales: Weights, observed: Iterable[ChannelStatistics], kind: Format) -> Codes:
    """Return a weight's stored bytes, [outputs, inputs], that change the products of the observed inputs least.

    Args:
        weight: [outputs, inputs].
        scales: Scale of each row, [outputs].
        observed: Statistics of the inputs, one for each stage, weighted equally.
        kind: The 8 bit type.
    """
    moments = np.sum([one.mean_products() for one in observed], axis=0)
    codes = round_nearest(weight, scales, kind)
    for place, block in enumerate(moments):
        first = place * len(block)
        own = slice(first, min(first + len(block), weight.shape[1]))
        width = own.stop - own.start
        if np.trace(block) > 0:
            codes[:, own] = _round_block(weight[:, own].astype(np.float64), scales, block[:width, :width], kind)
    return codes


def _round_block(weight: Floats, scales: Weights, products: Floats, kind: Format) -> Codes:
    """Round a block of input channels correlated by ``products``, [inputs, inputs]; the largest ones first."""
    order = np.argsort(-np.diag(products), kind="stable")
    damped = products[np.ix_(order, order)] + _DAMPING * np.mean(np.diag(products)) * np.eye(len(order))
    moves = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = weight[:, order]
    columns = []
    for place in range(len(order)):
        column = left[:, place]
        rounded = kind.encode(column / scales)
        error = (column - kind.decode(rounded) * scales) / moves[place, place]
        left[:, place + 1 :] -= np.outer(error, moves[place, place + 1 :])
        columns.append(rounded)
    codes = np.empty(weight.shape, columns[0].dtype)
    codes[:, order] = np.stack(columns, axis=1)
    return codes
