"""Settings of a session with all defaults resolved."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SessionSettings"]


@dataclass(frozen=True)
class SessionSettings:
    """The arguments of :meth:`Model.session`, without the text."""

    seed: int
    sampler: str
    steps: int
    guidance: float | None
    prefix_noise: int | None
    eta: float
    shift: float
