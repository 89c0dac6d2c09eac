"""What a session was asked for, with every default filled in: enough to make it again."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SessionSettings"]


@dataclass(frozen=True)
class SessionSettings:
    """The arguments of :meth:`Model.session` but for text; see there."""

    seed: int
    sampler: str
    steps: int
    guidance: float | None
    prefix_noise: int | None
    eta: float
    shift: float
