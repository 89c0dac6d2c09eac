"""Figures of an accuracy comparison, and the limits that they are judged by."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..errors import CalibrationError

__all__ = ["DEFAULT_GATES", "OVER_FP16", "SAFE", "Gate", "Judged", "judge", "parse_gate", "select_gates"]

# Half of what FP16 holds, rounded down: what passes it on a few rollouts may pass the end on others.
SAFE = 30_000.0
DEFAULT_GATES: Mapping[str, float] = {"teacher-psnr": 35.0, "teacher-drift": 1.25, "largest-fp16": SAFE}
# Free-running drift over that of FP16 from the same seeds, measured only where a gate asks for it: it takes rollouts in
# FP16 too, and over the four rollouts of a default run it is chance.
OVER_FP16 = "drift-over-fp16"
# Drift is the error from the 11th chunk on over that of earlier ones; in fewer chunks it is not what it says.
_DRIFT_CHUNKS = 11
# What may grow no larger; every other figure may fall no lower.
_MOST = ("drift", OVER_FP16, "relative-l2", "largest-fp16")


_log = logging.getLogger("vdmrt")


@dataclass(frozen=True)
class Gate:
    """A bound on a figure.

    Attributes:
        figure: Its name.
        bound: The least, or for drift and relative errors the most.
    """

    figure: str
    bound: float

    @property
    def wanted(self) -> str:
        """The bound in words."""
        return f"at {'most' if self.figure.endswith(_MOST) else 'least'} {self.bound:g}"

    def holds(self, found: float) -> bool:
        """Whether a figure keeps within the bound; NaN never does."""
        return found <= self.bound if self.figure.endswith(_MOST) else found >= self.bound


@dataclass(frozen=True)
class Judged:
    """A figure and its limit.

    Attributes:
        figure: The figure's name.
        measured: What was measured.
        limit: The bound in words, as "at least 35".
        passed: Whether the figure keeps within it.
    """

    figure: str
    measured: float
    limit: str
    passed: bool

    def describe(self) -> str:
        """Describe it in a line of a table."""
        return f"{self.figure:24}{self.measured:<12.4g}{self.limit:18}{'passed' if self.passed else 'FAILED'}"


def parse_gate(text: str) -> Gate:
    """Read ``FIGURE=BOUND``.

    Raises:
        ValueError: It is something else.
    """
    figure, equals, bound = text.partition("=")
    try:
        value = float(bound)
    except ValueError:
        value = math.nan
    if not equals or not math.isfinite(value):
        raise ValueError(f"--gate must be FIGURE=NUMBER, as teacher-psnr=35, got {text!r}")
    return Gate(figure.strip(), value)


def select_gates(given: Mapping[str, float] | None, figures: Collection[str], chunks: int) -> list[Gate]:
    """Return the gates of a comparison: those given, or the default ones on figures that it has.

    Args:
        given: Bounds by figure; None takes the default ones.
        figures: Names of the figures that will be measured.
        chunks: Autoregressive steps of a rollout; in a short one drift has no default limit.

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
            raise CalibrationError(f"--gate {name!r} is no figure of this comparison; there are {', '.join(figures)}")
    return [Gate(name, bound) for name, bound in given.items()]


def judge(figures: Mapping[str, float], gates: Collection[Gate]) -> tuple[Judged, ...]:
    """Return every gated figure with its limit."""
    return tuple(Judged(one.figure, figures[one.figure], one.wanted, one.holds(figures[one.figure])) for one in gates)
