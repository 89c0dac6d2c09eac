"""Q/DQ arithmetic, ranges and statistics, against plain numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vdmrt.calibration.graph.formats import FORMATS, fp16_scale
from vdmrt.calibration.observe.ranges import choose_amax, input_error
from vdmrt.calibration.observe.statistics import ChannelStatistics

INT8, FP8 = FORMATS["int8"], FORMATS["fp8"]
MODERATE = st.floats(-1e3, 1e3, width=32)


def statistics_of(rows: np.ndarray) -> ChannelStatistics:
    seen = ChannelStatistics.empty(rows.shape[1])
    seen.add(rows, amax=np.abs(rows).max(0), mean=rows.mean(0))
    return seen


def test_int8_rounds_ties_to_even_and_saturates() -> None:
    assert INT8.encode(np.array([0.5, 1.5, 2.5, -0.5, 300, -300])).tolist() == [0, 2, 2, 0, 127, -127]


def test_e4m3_values_equal_those_of_the_onnx_package() -> None:
    every = FP8.decode(np.arange(127, dtype=np.uint8))
    between = (every[1:] + every[:-1]) / 2
    values = np.concatenate([every, between, -between, np.linspace(-448, 448, 9001, dtype=np.float32)])

    assert np.array_equal(FP8.encode(values), values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, st.integers(1, 40), elements=MODERATE))
def test_the_error_of_int8_is_at_most_half_a_step(values: np.ndarray) -> None:
    scale = fp16_scale(np.array(np.abs(values).max()), INT8.largest)

    restored = INT8.decode(INT8.encode(values / scale)) * scale

    assert np.abs(restored - values).max() <= scale * 0.5001


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, st.integers(1, 40), elements=MODERATE))
def test_the_error_of_fp8_is_at_most_a_sixteenth_of_the_value_or_half_its_least_step(values: np.ndarray) -> None:
    scale = fp16_scale(np.array(np.abs(values).max()), FP8.largest)

    restored = FP8.decode(FP8.encode(values / scale)) * scale

    assert (np.abs(restored - values) <= np.maximum(np.abs(values) / 16, scale * 2.0**-10) * 1.001).all()


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-9, 1e4), st.sampled_from([127.0, 448.0]))
def test_scales_are_fp16_numbers_and_never_clip(amax: float, largest: float) -> None:
    scale = fp16_scale(np.array(amax), largest)

    assert float(np.float16(scale)) == float(scale)
    assert float(scale) * largest >= np.float32(amax)


def test_constant_zero_gets_a_scale_that_represents_it() -> None:
    assert float(fp16_scale(np.array(0.0), 127.0)) == 1.0


def test_max_keeps_everything_and_percentile_cuts_an_outlier() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 1600)).astype(np.float32)
    rows[0, 0] = 1000
    seen = statistics_of(rows)
    even = np.ones(1600)

    assert choose_amax("max", seen.histogram, seen.amax, even, INT8) == 1000
    assert 3 < choose_amax("percentile", seen.histogram, seen.amax, even, INT8) < 6


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_mse_and_entropy_clip_a_rare_outlier(method: str) -> None:
    rows = np.random.default_rng(1).standard_normal((2000, 64)).astype(np.float32)
    rows[0, 0] = 40
    seen = statistics_of(rows)

    clip = choose_amax(method, seen.histogram, seen.amax, np.ones(64), INT8)  # type: ignore[arg-type]

    assert 3 < clip < 30


@pytest.mark.parametrize("kind", [INT8, FP8])
def test_the_expected_error_equals_the_measured_error_of_rounding(kind: object) -> None:
    assert kind in (INT8, FP8)
    chosen = INT8 if kind is INT8 else FP8
    rows = np.random.default_rng(2).standard_normal((4000, 16)).astype(np.float32)
    clip = 3.0

    rounded = chosen.decode(chosen.encode(rows / (clip / chosen.largest))) * (clip / chosen.largest)
    expected = input_error(statistics_of(rows).histogram, clip, chosen)

    assert expected.sum() == pytest.approx(np.square(rounded - rows).mean(0).sum(), rel=0.15)


def test_scaling_moves_statistics_as_it_moves_values() -> None:
    rows = np.random.default_rng(3).standard_normal((500, 4)).astype(np.float32)
    factors = np.array([1.0, 4.0, 0.5, 2.0])

    moved, wanted = statistics_of(rows).scaled(factors), statistics_of((rows * factors).astype(np.float32))

    assert np.array_equal(moved.amax, wanted.amax)
    assert np.array_equal(moved.histogram.sum(1), wanted.histogram.sum(1))
    assert moved.squares() == pytest.approx(wanted.squares(), rel=1e-2)
    assert moved.mean == pytest.approx(wanted.mean)
    assert moved.mean_products() == pytest.approx(wanted.mean_products(), rel=1e-5)


def test_the_mean_square_is_estimated_from_the_histogram() -> None:
    rows = np.random.default_rng(4).standard_normal((5000, 3)).astype(np.float32)

    assert statistics_of(rows).squares() == pytest.approx(np.square(rows).mean(0), rel=0.02)


@pytest.mark.parametrize(("channels", "blocks"), [(6, 1), (256, 1), (257, 2), (600, 3)])
def test_products_of_channels_equal_numpys_within_blocks(channels: int, blocks: int) -> None:
    rows = np.random.default_rng(5).standard_normal((50, channels)).astype(np.float32)
    size = -(-channels // blocks)

    found = statistics_of(rows).mean_products()

    assert found.shape == (blocks, size, size)
    for place in range(blocks):
        own = rows[:, place * size : (place + 1) * size].astype(np.float64)
        width = own.shape[1]
        assert found[place][:width, :width] == pytest.approx(own.T @ own / 50, rel=1e-4, abs=1e-5)
        assert not found[place][width:].any()
