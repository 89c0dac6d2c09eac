"""Comparison of two settings by alternating chunks, so that changes in the machine's speed affect both."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from ...bundle import Precision
from ...runtime.backends.load_options import LoadOptions
from ...runtime.sampling.sampling_options import SamplingOptions
from ..measuring.measurement import Rollout
from ..report.report import Comparison, Ratio
from .statistics import median_interval

if TYPE_CHECKING:
    from ...runtime.session.model import Model
    from ..measuring.settings import Settings

__all__ = ["Side", "compare", "parse_other", "stay_open"]

# Least number of rounds for an interval of 99 %.
_ROUNDS = 8
_SETTINGS = {"bundle": Path, **get_type_hints(LoadOptions), **get_type_hints(SamplingOptions)}
_ENGINE = "use_engine"  # --engine
_SWITCH = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}


def parse_other(settings: Settings, text: str) -> Settings:
    """Parse the other settings: a bundle's folder, or differing options such as ``precision=int8,engine=off``.

    The names are those of the options of loading and sampling, and ``bundle``; switches take on or off.

    Raises:
        ValueError: A setting is unknown, malformed or out of range.
    """
    if "=" not in text or Path(text).exists():
        return dataclasses.replace(settings, bundle=Path(text))
    changed: dict[str, Any] = {}
    for part in text.split(","):
        option, _, value = part.partition("=")
        name = _ENGINE if option == "engine" else option.replace("-", "_")
        if name not in _SETTINGS:
            known = ", ".join(name.removeprefix("use_").replace("_", "-") for name in _SETTINGS)
            raise ValueError(f"--against takes a bundle, or {known} with a value, got {part!r}")
        changed[name] = _read(option, _SETTINGS[name], value)
    return dataclasses.replace(settings, **changed)


def _read(option: str, hint: Any, value: str) -> object:
    """Parse a setting by the type of its field, ignoring None."""
    kind = next((one for one in get_args(hint) if one is not NoneType), hint)
    if kind is Precision:
        return _read_precision(value)
    try:
        return _SWITCH[value] if kind is bool else kind(value)
    except (ValueError, KeyError) as error:
        wanted = "on or off" if kind is bool else "a number"
        raise ValueError(f"--against {option} must be {wanted}, got {value!r}") from error


def _read_precision(value: str) -> Precision:
    try:
        return Precision.parse(value)
    except ValueError as error:
        raise ValueError(f"--against {error}") from error


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two contenders.

    Attributes:
        settings: Its settings.
        open: Opens the model for one round. If it loads the model each time, the interval covers the differences
            between instances, such as the placement of memory.
        make: Kind of rollout, if the contenders differ in that.
    """

    settings: Settings
    open: Callable[[], AbstractContextManager[Model]]
    make: type[Rollout] = Rollout


def stay_open(model: Model) -> Callable[[], AbstractContextManager[Model]]:
    """Return a function that opens a loaded model and leaves it open."""
    return lambda: nullcontext(model)


def compare(
    this: Side,
    other: Side,
    *,
    what: str,
    pairs: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Run chunks of both in alternation, in eight rounds, each of which opens both again.

    A pair of neighboring chunks is one comparison, independent of slow changes of the machine; but pairs of one round
    share their placement in memory. So a round counts as one value, the median of its pairs, and the interval is the
    range of the eight values: the probability that eight independent values are all on one side of the median is 1/128.

    Args:
        this: First contender.
        other: Second contender.
        what: Description of the other.
        pairs: Least number of pairs of neighboring chunks in all; at least two in each round.
        on_progress: Called with the chunks made, including the warm-up, and their number.

    Raises:
        VdmrtError: A contender fails.
    """
    # An even number, so that each comes first equally often.
    per_round = 2 * max(1, -(-pairs // (2 * _ROUNDS)))
    chunks = 2 * (this.settings.warmup + 1 + per_round)

    def measure(number: int) -> _Round:
        before = number * chunks
        return _measure_round(this, other, number, per_round, lambda made: on_progress(before + made, _ROUNDS * chunks))

    rounds = [measure(number) for number in range(_ROUNDS)]
    part = rounds[0].part
    codec = "included" if rounds[0].decodes else "excluded"
    return Comparison(
        what,
        _ROUNDS * per_round,
        (
            _ratio(f"{part}, codec {codec}", [_each(one.times, lambda times: times.chunk_ms) for one in rounds]),
            _ratio("denoising step", [_each(one.times, lambda times: times.step_ms) for one in rounds]),
            _ratio("cache fill", [_each(one.times, lambda times: times.fill_ms) for one in rounds]),
        ),
        _ROUNDS,
    )


@dataclasses.dataclass(frozen=True)
class _Times:
    chunk_ms: float
    step_ms: float
    fill_ms: float


@dataclasses.dataclass(frozen=True)
class _Round:
    """Times of both contenders, pair by pair, of a chunk or of one latent frame."""

    part: str
    decodes: bool
    times: tuple[list[_Times], list[_Times]]


def _measure_round(this: Side, other: Side, number: int, pairs: int, on_chunk: Callable[[int], None]) -> _Round:
    """Open both, warm up, and measure pairs; the order alternates, because it affects caches and memory placement."""
    sides, turn = (this, other), (0, 1) if number % 2 else (1, 0)
    with ExitStack() as opened:
        rollouts: dict[int, Rollout] = {}
        for side in turn:
            model = opened.enter_context(sides[side].open())
            rollouts[side] = sides[side].make(model, sides[side].settings)
            opened.enter_context(rollouts[side].session)
        frames = [rollouts[side].session.lane.geometry.chunk_frames for side in (0, 1)]
        alike, decodes = frames[0] == frames[1], all(rollout.decodes for rollout in rollouts.values())
        for rollout in rollouts.values():
            rollout.decodes = decodes
            rollout.start()
        times: tuple[list[_Times], list[_Times]] = ([], [])
        warmup = this.settings.warmup + 1
        for chunk in range(warmup + pairs):
            for side in turn if chunk % 2 else turn[::-1]:
                found = _time(rollouts[side], 1 if alike else frames[side])
                if chunk >= warmup:
                    times[side].append(found)
            on_chunk(2 * (chunk + 1))
    return _Round("autoregressive step" if alike else "latent frame", decodes, times)


def _time(rollout: Rollout, parts: int) -> _Times:
    """Generate a chunk; return the time of one of its ``parts``."""
    began = time.perf_counter()
    timings = rollout.deliver().timings
    chunk_ms = (time.perf_counter() - began) * 1e3
    return _Times(chunk_ms / parts, statistics.median(timings.denoise_ms), timings.fill_ms)


def _each(times: Sequence[list[_Times]], read: Callable[[_Times], float]) -> tuple[list[float], list[float]]:
    return [read(one) for one in times[0]], [read(one) for one in times[1]]


def _ratio(what: str, rounds: Sequence[tuple[list[float], list[float]]]) -> Ratio:
    ratios = [statistics.median(b / a for a, b in zip(*each, strict=True)) for each in rounds]
    interval = median_interval(ratios, correlated=False)
    this, other = ([value for each in rounds for value in each[side]] for side in (0, 1))
    return Ratio(
        what,
        statistics.median(this),
        statistics.median(other),
        statistics.median(ratios),
        interval,
        1.0 not in interval,
    )
