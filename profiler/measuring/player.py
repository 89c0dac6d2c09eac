"""Simulated player of chunks: deadlines met and stalls, for a player that never skips."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["measure_attainment", "measure_stall"]


def measure_attainment(arrivals_ms: Sequence[float], chunk_ms: float) -> float:
    """Return the share of chunks after the first that arrived before a player without pauses needed them.

    Args:
        arrivals_ms: Arrival time of each chunk; the player starts with the first.
        chunk_ms: Playing time of a chunk.
    """
    later = [arrival - arrivals_ms[0] for arrival in arrivals_ms[1:]]
    if not later:
        return 1.0
    return sum(late <= number * chunk_ms for number, late in enumerate(later, 1)) / len(later)


def measure_stall(arrivals_ms: Sequence[float], chunk_ms: float) -> float:
    """Return how long a player that starts with the first chunk and waits for late ones was stalled.

    Args:
        arrivals_ms: Arrival time of each chunk.
        chunk_ms: Playing time of a chunk.
    """
    stalled, dry = 0.0, arrivals_ms[0] + chunk_ms
    for arrival in arrivals_ms[1:]:
        stalled += max(0.0, arrival - dry)
        dry = max(dry, arrival) + chunk_ms
    return stalled
