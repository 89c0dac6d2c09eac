"""Quantization of a model, independent of its graphs' type: the scales of every linear's input and weight."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import FP8, INT8
from ...errors import CalibrationError
from ..observe.ranges import choose_amax, input_error
from .cache_scales import CacheScales
from .formats import FORMATS, fp16_scale
from .rounding import decode_weight, round_gptq, round_nearest

if TYPE_CHECKING:
    from ...bundle import Bundle, EightBits, Precision
    from ..observe.ranges import Method
    from ..observe.statistics import ChannelStatistics
    from .formats import Format
    from .linears import Linear
    from .rounding import Rounding

__all__ = ["LinearScales", "Quantization", "SiteScales", "make_quantization", "quantization_of"]

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]
Codes = npt.NDArray[Any]

# Migration costs a multiplication of the whole input: it must reduce the estimated error by this fraction.
_WORTHWHILE = 0.8
# A channel is an outlier where its maximum is this many times the median channel's.
OUTLIER = 4.0
# Clips of a row of weights that "mse" tries, as fractions of its largest value.
_ROW_CLIPS = np.linspace(1.0, 0.7, 13)


@dataclass(frozen=True)
class SiteScales:
    """Scales of a tensor that linears read.

    Attributes:
        scales: Quantization step by stage, FP16-representable.
        migration: Factor applied to each channel before quantization, FP16-representable; None for no migration.
    """

    scales: Mapping[str, float]
    migration: tuple[float, ...] | None


@dataclass(frozen=True)
class LinearScales:
    """Scales of a linear.

    Attributes:
        site: Name of the site that it reads.
        weight: Scale of each output channel, FP16-representable.
        correction: By stage: the addend of each output channel that compensates the effect of weight rounding on the
            mean input, which is the same in every run and returns through the cache at every autoregressive step.
    """

    site: str
    weight: tuple[float, ...]
    correction: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantization:
    """Quantization of a model.

    Attributes:
        format: The 8 bit type.
        method: Method by which ranges were chosen.
        sites: Scales of inputs, by name of the site.
        linears: Scales of weights, by name; other linears stay in floating point.
        cache: Scales of ``k.0``, ``v.0`` and so on; empty where the cache stays in floating point.
        codes: Stored bytes of each linear's weight, int8 or E4M3 as uint8 [outputs, inputs], by the linear's name. They
            are stored in the graphs and not in the JSON.
    """

    format: EightBits
    method: Method
    sites: Mapping[str, SiteScales]
    linears: Mapping[str, LinearScales]
    cache: Mapping[str, CacheScales] = field(default_factory=dict)
    codes: Mapping[str, Codes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def kind(self) -> Format:
        """The 8 bit type."""
        return FORMATS[self.format]

    def keeping(self, groups: Iterable[str]) -> Quantization:
        """Return a copy without the linears of some groups (``blocks.3.mlp``), which stay in floating point."""
        left_out = set(groups)
        linears = {name: one for name, one in self.linears.items() if name.rpartition(".")[0] not in left_out}
        return dataclasses.replace(self, linears=linears)

    def only(self, groups: Iterable[str]) -> Quantization:
        """Return a copy with only the linears of some groups."""
        wanted = set(groups)
        return self.keeping({name.rpartition(".")[0] for name in self.linears} - wanted)

    def to_json(self) -> str:
        """Return it as JSON; equal quantizations give equal text."""
        document = dataclasses.asdict(dataclasses.replace(self, codes={}))
        del document["codes"]
        return json.dumps(document, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Quantization:
        """Parse the text of :meth:`to_json`; the result has no codes.

        Raises:
            CalibrationError: The text is not such a quantization.
        """
        try:
            document: Any = json.loads(text)
            return cls(
                document["format"],
                document["method"],
                {
                    name: SiteScales(one["scales"], None if one["migration"] is None else tuple(one["migration"]))
                    for name, one in document["sites"].items()
                },
                {
                    name: LinearScales(
                        one["site"],
                        tuple(one["weight"]),
                        {stage: tuple(values) for stage, values in one["correction"].items()},
                    )
                    for name, one in document["linears"].items()
                },
                {
                    name: CacheScales(one["scale"], tuple(one["exponents"]), one.get("format", INT8))
                    for name, one in document["cache"].items()
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CalibrationError(f"not a quantization of vdmrt: {error!r}; calibrate again") from error


def make_quantization(
    seen: Mapping[str, Mapping[str, ChannelStatistics]],
    linears: Mapping[str, Iterable[Linear]],
    sites: Mapping[str, str],
    weights: Mapping[str, Weights],
    *,
    kind: Format,
    method: Method,
    smooth: float,
    rounding: Rounding,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Quantization:
    """Choose every scale.

    Args:
        seen: Statistics by stage and site.
        linears: Linears to quantize, by stage.
        sites: The site of each linear.
        weights: Weight of each linear by its name, [outputs, inputs].
        kind: The 8 bit type.
        method: Method by which ranges are chosen.
        smooth: SmoothQuant's alpha (Xiao et al. 2023, eq. 4), 0 for no migration.
        rounding: Rounding of weights.
        on_progress: Called with the linears done and their number.

    Raises:
        CalibrationError: ``smooth`` is out of range, or a linear was never observed.
    """
    if kind.name == FP8 and method == "entropy":
        raise CalibrationError("--method entropy is for INT8's uniform levels; for fp8 use max, percentile or mse")
    if not 0 <= smooth <= 1:
        raise CalibrationError(f"--smooth must be 0 (off) to 1, got {smooth}")
    by_site: dict[str, set[str]] = {}
    for stage in linears:
        for linear in linears[stage]:
            by_site.setdefault(sites[linear.name], set()).add(linear.name)
    site_scales, linear_scales, codes = {}, {}, {}
    total = sum(map(len, by_site.values()))
    for site, names in sorted(by_site.items()):
        observed = {stage: by[site] for stage, by in seen.items() if site in by}
        if not observed:
            raise CalibrationError(f"'{site}' was never observed; observe the graphs that are quantized")
        own = {name: np.asarray(weights[name], np.float32) for name in sorted(names)}
        migration = _migration(observed, own, kind, method, smooth)
        factors = np.ones(len(next(iter(observed.values())).amax)) if migration is None else migration
        moved = {name: (weight / factors).astype(np.float32) for name, weight in own.items()}
        scales = {
            stage: float(fp16_scale(np.array(_clip(one.scaled(factors), moved, kind, method)), kind.largest))
            for stage, one in observed.items()
        }
        site_scales[site] = SiteScales(scales, None if migration is None else tuple(map(float, migration)))
        for name, weight in moved.items():
            rows = _row_scales(weight, kind, method)
            seen_by = [one.scaled(factors) for one in observed.values()]
            codes[name] = (
                round_gptq(weight, rows, seen_by, kind) if rounding == "gptq" else round_nearest(weight, rows, kind)
            )
            lost = weight - decode_weight(codes[name], rows, kind)
            means = {stage: lost.astype(np.float64) @ (one.mean * factors) for stage, one in observed.items()}
            corrections = {stage: tuple(float(np.float32(x)) for x in mean) for stage, mean in means.items()}
            linear_scales[name] = LinearScales(site, tuple(map(float, rows)), corrections)
            on_progress(len(linear_scales), total)
    return Quantization(kind.name, method, site_scales, linear_scales, codes=codes)


def _clip(one: ChannelStatistics, weights: Mapping[str, Weights], kind: Format, method: Method) -> float:
    return choose_amax(method, one.histogram, one.amax, _met(weights), kind)


def _met(weights: Mapping[str, Weights]) -> Floats:
    """Return the squared norm of the weights of each input channel, [inputs]."""
    met: Floats = np.sum([np.square(weight.astype(np.float64)).sum(0) for weight in weights.values()], axis=0)
    return met


def _migration(
    observed: Mapping[str, ChannelStatistics],
    weights: Mapping[str, Weights],
    kind: Format,
    method: Method,
    alpha: float,
) -> npt.NDArray[np.float64] | None:
    """Return the factor of each input channel that balances the ranges of inputs and weights, or None.

    None where there are no outlier channels, or where the estimated error of the products hardly falls.
    """
    amax = np.max([one.amax for one in observed.values()], axis=0).astype(np.float64)
    if alpha == 0 or amax.max() <= OUTLIER * np.median(amax):
        return None
    largest = np.max([np.abs(weight).max(0) for weight in weights.values()], axis=0).astype(np.float64)
    usable = (amax > 0) & (largest > 0)
    divisors = np.where(usable, np.maximum(amax, 1e-5) ** alpha / np.maximum(largest, 1e-5) ** (1 - alpha), 1.0)
    divisors /= np.exp(np.mean(np.log(divisors)))
    factors = (1 / divisors).astype(np.float16).astype(np.float64)
    if not (np.isfinite(factors).all() and factors.min() >= 2.0**-14):
        return None
    before = _estimated_error(observed, weights, kind, method)
    moved = {stage: one.scaled(factors) for stage, one in observed.items()}
    after = _estimated_error(
        moved, {name: (weight / factors).astype(np.float32) for name, weight in weights.items()}, kind, method
    )
    return factors if after < _WORTHWHILE * before else None


def _estimated_error(
    observed: Mapping[str, ChannelStatistics], weights: Mapping[str, Weights], kind: Format, method: Method
) -> float:
    """Return the expected squared error of the products, over all stages."""
    total = 0.0
    for one in observed.values():
        clip = _clip(one, weights, kind, method)
        if clip:
            total += float(input_error(one.histogram, clip, kind) @ _met(weights))
        squares = one.squares()
        for weight in weights.values():
            rows = np.maximum(np.abs(weight).max(1), 1e-12).astype(np.float64)
            step = rows[:, None] if kind.name == INT8 else np.abs(weight)
            relative = kind.largest if kind.name == INT8 else 8.0
            total += float((np.square(step / relative) / 12 * squares[None]).sum())
    return total


def _row_scales(weight: Weights, kind: Format, method: Method) -> npt.NDArray[np.float32]:
    """Return the scale of each row; "mse" clips a row where that reduces its squared error."""
    amax = np.abs(weight).max(1)
    best = fp16_scale(amax, kind.largest)
    if method != "mse":
        return best
    least = np.full(len(weight), np.inf)
    for part in _ROW_CLIPS:
        scales = fp16_scale(amax * part, kind.largest)
        rounded = decode_weight(round_nearest(weight, scales, kind), scales, kind)
        error = np.square(rounded - weight).sum(1)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best


def quantization_of(bundle: Bundle, precision: Precision) -> Quantization:
    """Return the quantization of a precision; one without linears for an exported precision."""
    for made in bundle.manifest.calibrations:
        if made.precision == precision:
            return Quantization.from_json(bundle.locate(made.scales).read_text(encoding="utf-8"))
    return Quantization(INT8, "max", {}, {})
