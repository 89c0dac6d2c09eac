"""Statistics of durations, recorded in bounded memory."""

from __future__ import annotations

import math
import operator
import statistics
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "Distribution",
    "Interval",
    "Summary",
    "find_percentile",
    "measure_correlation",
    "median_interval",
    "summarize",
]

CONFIDENCE = 0.99
_NORMAL = statistics.NormalDist()
# Largest lag of the autocorrelation, as a multiple of the square root of the number of values.
_LAGS = 16
# Buckets 1 % wide from 10 ns to three hours: the precision of percentiles after exact samples are overwritten.
_FIRST_MS, _GROWTH = 1e-5, 1.01
_LOG_GROWTH = math.log(_GROWTH)
_BUCKETS = 2800


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        confidence: Probability that such an interval contains the true value; less than requested if the samples are
            too few or too correlated.
    """

    low: float
    high: float
    confidence: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Summary:
    """Summary of durations, in milliseconds.

    Attributes:
        count: Number of durations.
        minimum: Shortest duration.
        maximum: Longest duration.
        mean: Mean; always shown with the median.
        median: Median.
        interval: Confidence interval of the median.
        variation: Coefficient of variation: standard deviation over mean.
        percentiles: Percentiles by percent as text ("99"), by nearest rank, so each is a measured duration.
    """

    count: int
    minimum: float
    maximum: float
    mean: float
    median: float
    interval: Interval
    variation: float
    percentiles: Mapping[str, float] = field(default_factory=dict)


def find_percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the ``percent``-th percentile of sorted values by nearest rank, as trtexec does.

    Raises:
        ValueError: ``ordered`` is empty, or not 0 < percent <= 100.
    """
    if not ordered or not 0 < percent <= 100:
        raise ValueError(f"a percentile needs values and 0 < percent <= 100, got {len(ordered)} values, {percent}")
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE, *, correlated: bool = True) -> Interval:
    """Return a confidence interval of the median from order statistics, without assuming a distribution.

    The interval from the k-th smallest to the k-th largest of n independent samples misses the median with the
    probability that a fair coin shows heads fewer than k times in n throws, or tails. Durations are correlated: a busy
    neighbor on the machine makes several in a row long. Then n / t replaces n, where t is the measured correlation, and
    k becomes smaller.

    Args:
        values: Values in the order of measurement.
        confidence: Wanted probability that the interval contains the median.
        correlated: Whether neighboring values may be correlated; False for independent values.

    Raises:
        ValueError: ``values`` is empty.
    """
    if not values:
        raise ValueError("an interval needs at least one value, got none")
    ordered, n = sorted(values), len(values)
    spread = measure_correlation(values) if correlated else 1.0
    if n > 1000 or spread > 1.0:
        # The binomial's normal approximation: exact sums of such numbers overflow.
        deviation = 0.5 * math.sqrt(n * spread)
        k = max(1, math.floor(n / 2 - _NORMAL.inv_cdf(0.5 + confidence / 2) * deviation))
        reached = 2 * _NORMAL.cdf((n / 2 - k + 0.5) / deviation) - 1
        return Interval(ordered[k - 1], ordered[n - k], min(confidence, reached))
    missed, k = 2 * 0.5**n, 1
    while k < (n + 1) // 2 and missed + 2 * math.comb(n, k) * 0.5**n <= 1 - confidence:
        missed += 2 * math.comb(n, k) * 0.5**n
        k += 1
    return Interval(ordered[k - 1], ordered[n - k], max(0.0, 1 - missed))


def measure_correlation(values: Sequence[float]) -> float:
    """Return the number of consecutive values equivalent to one independent value for the median, at least 1.

    It is the sum of the autocorrelations of the signs about the median, over lags up to the first neighboring pair of
    lags with a sum that is not positive (Geyer's initial positive sequence): larger lags contain only noise.
    """
    middle, n = statistics.median(values), len(values)
    signs = [(value > middle) - (value < middle) for value in values]
    whole = sum(sign * sign for sign in signs) or 1
    total, lag, last = 1.0, 1, min(n // 2, _LAGS * math.isqrt(n))
    while lag + 1 < last:
        pair = sum(map(operator.mul, signs, signs[lag:])) + sum(map(operator.mul, signs, signs[lag + 1 :]))
        if pair <= 0:
            break
        total += 2 * pair / whole
        lag += 2
    return total


def summarize(values: Sequence[float], percents: Sequence[float] = (90, 95, 99)) -> Summary:
    """Summarize durations.

    Raises:
        ValueError: ``values`` is empty, or a percentile is out of range.
    """
    if not values:
        raise ValueError("a summary needs at least one value, got none")
    ordered = sorted(values)
    mean = statistics.fmean(ordered)
    return Summary(
        count=len(ordered),
        minimum=ordered[0],
        maximum=ordered[-1],
        mean=mean,
        median=statistics.median(ordered),
        interval=median_interval(values),
        variation=statistics.pstdev(ordered, mean) / mean if mean else 0.0,
        percentiles={f"{percent:g}": find_percentile(ordered, percent) for percent in percents},
    )


class Distribution:
    """Durations in preallocated memory: the last ``capacity`` exactly, all of them in a histogram.

    Attributes:
        count: Number of recorded durations.
    """

    __slots__ = ("_buckets", "_maximum", "_mean", "_minimum", "_recent", "_spread", "count")

    def __init__(self, capacity: int = 4096) -> None:
        """Allocate the memory.

        Raises:
            ValueError: ``capacity`` is not positive.
        """
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._recent = array("d", bytes(8 * capacity))
        self._buckets = array("Q", bytes(8 * _BUCKETS))
        self.clear()

    def clear(self) -> None:
        """Remove all durations."""
        self.count = 0
        self._minimum, self._maximum = math.inf, 0.0
        self._mean = self._spread = 0.0
        for bucket in range(_BUCKETS):
            self._buckets[bucket] = 0

    def record(self, milliseconds: float) -> None:
        """Record one duration."""
        count = self.count
        self._recent[count % len(self._recent)] = milliseconds
        self._buckets[_bucket(milliseconds)] += 1
        self.count = count = count + 1
        if milliseconds < self._minimum:
            self._minimum = milliseconds
        if milliseconds > self._maximum:
            self._maximum = milliseconds
        # Welford's algorithm: a sum of squares would lose the spread of long runs to rounding.
        distance = milliseconds - self._mean
        self._mean += distance / count
        self._spread += distance * (milliseconds - self._mean)

    def recent(self) -> list[float]:
        """Return the last durations, at most ``capacity``, the oldest first."""
        capacity = len(self._recent)
        if self.count <= capacity:
            return list(self._recent[: self.count])
        first = self.count % capacity
        return [*self._recent[first:], *self._recent[:first]]

    def percentile(self, percent: float) -> float:
        """Return a percentile: exact while all durations fit the capacity, then within 1 %.

        Raises:
            ValueError: Nothing was recorded, or not 0 < percent <= 100.
        """
        if self.count <= len(self._recent):
            return find_percentile(sorted(self._recent[: self.count]), percent)
        if not 0 < percent <= 100:
            raise ValueError(f"a percentile needs 0 < percent <= 100, got {percent}")
        rank, seen = math.ceil(percent / 100 * self.count), 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if seen >= rank:
                middle: float = _FIRST_MS * _GROWTH ** (bucket - 0.5)
                return min(max(middle, self._minimum), self._maximum)
        raise AssertionError("every duration is in a bucket")

    def summary(self, percents: Sequence[float] = (90, 95, 99)) -> Summary:
        """Summarize the recorded durations; see :meth:`percentile`. The interval is that of the last durations.

        Raises:
            ValueError: Nothing was recorded, or a percentile is out of range.
        """
        recent = self.recent()
        if self.count <= len(self._recent):
            return summarize(recent, percents)
        return Summary(
            count=self.count,
            minimum=self._minimum,
            maximum=self._maximum,
            mean=self._mean,
            median=self.percentile(50),
            interval=median_interval(recent),
            variation=math.sqrt(self._spread / self.count) / self._mean if self._mean else 0.0,
            percentiles={f"{percent:g}": self.percentile(percent) for percent in percents},
        )


def _bucket(milliseconds: float) -> int:
    if milliseconds <= _FIRST_MS:
        return 0
    return min(int(math.log(milliseconds / _FIRST_MS) / _LOG_GROWTH) + 1, _BUCKETS - 1)
