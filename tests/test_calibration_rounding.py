"""Rounding of weights: GPTQ by the correlation of inputs, and to nearest without correlation."""

from __future__ import annotations

import numpy as np
import pytest

from vdmrt.calibration.graph.formats import FORMATS, Format, fp16_scale
from vdmrt.calibration.graph.rounding import decode_weight, round_gptq, round_nearest
from vdmrt.calibration.observe.statistics import ChannelStatistics

KINDS = pytest.mark.parametrize("kind", FORMATS.values(), ids=list(FORMATS))


def statistics_of(rows: np.ndarray) -> ChannelStatistics:
    seen = ChannelStatistics.empty(rows.shape[1])
    seen.add(rows, amax=np.abs(rows).max(0), mean=rows.mean(0))
    return seen


def correlated_rows(channels: int, seed: int, count: int = 2000) -> np.ndarray:
    """Return inputs with a few dominant directions, like activations, [count, channels]."""
    drawn = np.random.default_rng(seed)
    few = drawn.standard_normal((count, 8)) @ drawn.standard_normal((8, channels))
    return (few + 0.3 * drawn.standard_normal((count, channels))).astype(np.float32)


def drawn_weight(inputs: int, kind: Format, outputs: int = 24) -> tuple[np.ndarray, np.ndarray]:
    weight = np.random.default_rng(1).standard_normal((outputs, inputs)).astype(np.float32)
    return weight, fp16_scale(np.abs(weight).max(1), kind.largest)


@KINDS
@pytest.mark.parametrize("channels", [40, 300])
@pytest.mark.parametrize("seed", range(3))
def test_gptq_reduces_the_error_of_products_of_other_inputs(kind: Format, channels: int, seed: int) -> None:
    rows = correlated_rows(channels, seed)
    seen, unseen = statistics_of(rows[:1500]), rows[1500:].astype(np.float64)
    weight, scales = drawn_weight(channels, kind)

    def error(codes: np.ndarray) -> float:
        return float(np.linalg.norm(unseen @ (decode_weight(codes, scales, kind) - weight).T))

    assert error(round_gptq(weight, scales, [seen], kind)) < 0.6 * error(round_nearest(weight, scales, kind))


@KINDS
def test_uncorrelated_inputs_round_every_weight_to_nearest(kind: Format) -> None:
    weight, scales = drawn_weight(12, kind)
    # One channel at a time: the product of two channels is always zero.
    rows = np.diag(np.arange(1, 13)).astype(np.float32)

    found = round_gptq(weight, scales, [statistics_of(rows)], kind)

    assert np.array_equal(found, round_nearest(weight, scales, kind))


@KINDS
def test_a_block_with_inputs_that_are_always_zero_is_rounded_to_nearest(kind: Format) -> None:
    weight, scales = drawn_weight(300, kind)
    rows = correlated_rows(300, 0)
    rows[:, :150] = 0

    found, nearest = round_gptq(weight, scales, [statistics_of(rows)], kind), round_nearest(weight, scales, kind)

    assert np.array_equal(found[:, :150], nearest[:, :150])
    assert not np.array_equal(found[:, 150:], nearest[:, 150:])


@KINDS
def test_every_stage_has_equal_weight_regardless_of_its_observations(kind: Format) -> None:
    weight, scales = drawn_weight(40, kind)
    much, little = correlated_rows(40, 1), correlated_rows(40, 2)
    twice = statistics_of(np.concatenate([much, much]))

    found = round_gptq(weight, scales, [statistics_of(much), statistics_of(little)], kind)

    assert np.array_equal(found, round_gptq(weight, scales, [twice, statistics_of(little)], kind))
