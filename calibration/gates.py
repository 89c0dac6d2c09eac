"""Gates: limits on the figures of an accuracy comparison."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..errors import CalibrationError

__all__ = ["DEFAULT_GATES", "OVER_FP16", "SAFE", "Gate", "Judged", "judge", "parse_gate", "select_gates"]

# Half of FP16's maximum, rounded down: a tensor above it on a few rollouts may overflow on others.
SAFE = 30_000.0
DEFAULT_GATES: Mapping[str, float] = {"teacher-psnr": 35.0, "teacher-drift": 1.25, "largest-fp16": SAFE}
# Free-running drift over that of FP16 from the same seeds, measured only where a gate asks for it: it takes rollouts in
# FP16 too, and over the four rollouts of a default run it is chance.
OVER_FP16 = "drift-over-fp16"
# Drift is the error from the 11th chunk on over that of earlier ones; fewer chunks do not show it.
_DRIFT_CHUNKS = 11
# Figures with an upper bound; all others have a lower bound.
_MOST = ("drift", OVER_FP16, "relative-l2", "largest-fp16")


_log = logging.getLogger("vdmrt")


@dataclass(frozen=True)
class Gate:
    """A bound on a figure.

    Attributes:
        figure: The figure's name.
        bound: Least value; for drift and relative errors the largest.
    """

    figure: str
    bound: float

    @property
    def wanted(self) -> str:
        """The bound in words."""
        return f"at {'most' if self.figure.endswith(_MOST) else 'least'} {self.bound:g}"

    def holds(self, found: float) -> bool:
        """Whether a value is within the bound; NaN never is."""
        return found <= self.bound if self.figure.endswith(_MOST) else found >= self.bound


@dataclass(frozen=True)
class Judged:
    """A figure and its limit.

    Attributes:
        figure: The figure's name.
        measured: The measured value.
        limit: The bound in words, such as "at least 35".
        passed: Whether the value is within it.
    """

    figure: str
    measured: float
    limit: str
    passed: bool

    def describe(self) -> str:
        """Return the line of a table."""
        return f"{self.figure:24}{self.measured:<12.4g}{self.limit:18}{'passed' if self.passed else 'FAILED'}"


def parse_gate(text: str) -> Gate:
    """Parse ``FIGURE=BOUND``.

    Raises:
        ValueError: The text has another form.
    """
    figure, equals, bound = text.partition("=")
    try:
        value = float(bound)
    except ValueError:
        value = math.nan
    if not equals or not math.isfinite(value):
        raise ValueError(f"--gate must be FIGURE=NUMBER, such as teacher-psnr=35, got {text!r}")
    return Gate(figure.strip(), value)


def select_gates(given: Mapping[str, float] | None, figures: Collection[str], chunks: int) -> list[Gate]:
    """Return the gates of a comparison: the given ones, or the default ones on its figures.

    Args:
        given: Bounds by figure; None selects the default ones.
        figures: Names of the figures that will be measured.
        chunks: Autoregressive steps of a rollout; drift has no default limit in a short one.

    Raises:
        CalibrationError: A gate is given on something that is not measured.
    """
    if given is None:
        is_short = chunks < _DRIFT_CHUNKS
        if is_short:
            _log.warning("drift is not judged in %d chunks: it needs %d or more", chunks, _DRIFT_CHUNKS)
        defaults = {name: bound for name, bound in DEFAULT_GATES.items() if name in figures}
        return [Gate(name, bound) for name, bound in defaults.items() if not (is_short and name.endswith("drift"))]
    for name in given:
        if name not in figures:
            raise CalibrationError(f"--gate {name!r} is not a figure of this comparison; it has {', '.join(figures)}")
    return [Gate(name, bound) for name, bound in given.items()]


def judge(figures: Mapping[str, float], gates: Collection[Gate]) -> tuple[Judged, ...]:
    """Return every gated figure with its limit."""
    return tuple(Judged(one.figure, figures[one.figure], one.wanted, one.holds(figures[one.figure])) for one in gates)
