"""Percentiles, intervals, and durations in bounded memory."""

from __future__ import annotations

import random
import statistics
import tracemalloc

import pytest

from vdmrt.profiler.analysis.statistics import (
    Distribution,
    find_percentile,
    measure_correlation,
    median_interval,
    summarize,
)


@pytest.mark.parametrize(("percent", "wanted"), [(1, 1), (50, 50), (90, 90), (99, 99), (99.5, 100), (100, 100)])
def test_a_percentile_is_a_measured_value(percent: float, wanted: float) -> None:
    assert find_percentile(list(range(1, 101)), percent) == wanted


@pytest.mark.parametrize("percent", [0, -1, 101])
def test_a_percentile_out_of_range_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match=f"3 values, {percent}"):
        find_percentile([1, 2, 3], percent)


def test_a_summary_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value, got none"):
        summarize([])


def test_a_summary_has_the_median_its_interval_and_the_spread() -> None:
    summary = summarize([4.0, 1.0, 2.0, 3.0, 100.0], (50, 99))

    assert (summary.count, summary.minimum, summary.maximum, summary.median) == (5, 1.0, 100.0, 3.0)
    assert summary.mean == 22.0
    assert summary.variation == pytest.approx(statistics.pstdev([4, 1, 2, 3, 100]) / 22)
    assert summary.percentiles == {"50": 3.0, "99": 100.0}
    assert summary.interval.confidence == pytest.approx(1 - 2 / 2**5)


@pytest.mark.parametrize("count", [9, 25, 101, 1500])
def test_the_interval_contains_the_true_median_with_its_confidence(count: int) -> None:
    rng = random.Random(count)
    trials = 400
    held = sum(0.0 in median_interval([rng.gauss(0, 1) for _ in range(count)], 0.9) for _ in range(trials))

    assert 0.86 < held / trials <= 1.0


def remembering(rng: random.Random, count: int, memory: float) -> list[float]:
    """Return autocorrelated values about 0."""
    value, values = rng.gauss(0, 1) / (1 - memory**2) ** 0.5, []
    for _ in range(count):
        value = memory * value + rng.gauss(0, 1)
        values.append(value)
    return values


@pytest.mark.parametrize(("count", "memory", "least"), [(48, 0.5, 0.95), (200, 0.8, 0.94), (1500, 0.95, 0.97)])
def test_correlated_durations_widen_the_interval(count: int, memory: float, least: float) -> None:
    rng = random.Random(count)
    trials = [remembering(rng, count, memory) for _ in range(200)]

    held = sum(0.0 in median_interval(values) for values in trials) / len(trials)
    blind = sum(0.0 in median_interval(values, correlated=False) for values in trials) / len(trials)

    assert held >= least
    assert blind < held - 0.04


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_intervals_of_two_equal_runs_overlap(memory: float) -> None:
    rng = random.Random(7)
    pairs = [[median_interval(remembering(rng, 96, memory)) for _ in range(2)] for _ in range(200)]

    held = sum(one.low <= other.high and other.low <= one.high for one, other in pairs)
    assert held / len(pairs) >= 0.98


def test_the_correlation_of_independent_values_is_near_1() -> None:
    rng = random.Random(3)

    found = statistics.median(measure_correlation([rng.gauss(0, 1) for _ in range(400)]) for _ in range(50))

    assert found < 1.2
    assert measure_correlation([1.0, 2.0] * 50) == measure_correlation([5.0] * 9) == 1.0
    assert measure_correlation([1.0] * 50 + [2.0] * 50) > 20


def test_more_samples_narrow_the_interval() -> None:
    rng = random.Random(0)
    values = [rng.gauss(10, 1) for _ in range(900)]

    widths = [interval.high - interval.low for interval in (median_interval(values[:n]) for n in (10, 90, 900))]

    assert widths == sorted(widths, reverse=True)


def test_a_distribution_within_its_capacity_is_exact() -> None:
    distribution, values = Distribution(100), [random.Random(1).lognormvariate(2, 1) for _ in range(100)]
    for value in values:
        distribution.record(value)

    assert distribution.summary() == summarize(values)


def test_a_distribution_beyond_its_capacity_is_accurate_to_a_percent() -> None:
    rng = random.Random(2)
    distribution, values = Distribution(64), [rng.lognormvariate(1, 2) for _ in range(20_000)]
    for value in values:
        distribution.record(value)

    found, wanted = distribution.summary(), summarize(values)

    assert (found.count, found.minimum, found.maximum) == (wanted.count, wanted.minimum, wanted.maximum)
    assert found.mean == pytest.approx(wanted.mean)
    assert found.variation == pytest.approx(wanted.variation)
    assert found.median == pytest.approx(wanted.median, rel=0.01)
    assert found.percentiles == pytest.approx(wanted.percentiles, rel=0.01)
    assert distribution.recent() == values[-64:]


def test_the_memory_of_a_distribution_is_bounded() -> None:
    distribution = Distribution(64)
    for value in range(100):
        distribution.record(value + 1.5)
    tracemalloc.start()

    for value in range(20_000):
        distribution.record(value % 97 + 1.5)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert grown < 1024


@pytest.mark.parametrize("extreme", [0.0, 1e-9, 1e12])
def test_a_duration_beyond_the_buckets_is_counted(extreme: float) -> None:
    distribution = Distribution(1)
    for value in (1.0, extreme, extreme):
        distribution.record(value)

    assert distribution.count == 3
    assert distribution.percentile(50) == pytest.approx(extreme, rel=0.01, abs=1e-5) or extreme == 1e12


def test_a_cleared_distribution_is_empty() -> None:
    distribution = Distribution(4)
    distribution.record(3.0)
    distribution.clear()
    distribution.record(1.0)

    assert distribution.summary().maximum == 1.0


def test_a_distribution_without_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Distribution(0)
