"""Contenders take turns, so that a change of the GPU's clocks affects all; each answer is recorded at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ..running.record import Missing, Recorder

__all__ = ["Timed", "Turns"]


class Timed(Protocol):
    """What takes a turn."""

    @property
    def runs(self) -> Sequence[str]:
        """Names of what can be timed."""
        ...

    def time(self, run: str, count: int, limit_s: float) -> dict[str, list[float]]:
        """Time ``count`` steps; lists of milliseconds, ``ms`` among them."""
        ...


class Turns:
    """Rounds of a few steps each, until all are done or the time is over.

    Attributes:
        answers: By run, one for each round; those that warm up are left out.
    """

    def __init__(self, record: Recorder, what: str, steps: int, end: float) -> None:
        """Prepare.

        Args:
            record: Gets every answer when it arrives.
            what: Begins the records' names.
            steps: Of each turn.
            end: When to stop, on the monotonic clock.
        """
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self._record, self._what, self._steps, self._end = record, what, steps, end
        self._lost: set[str] = set()

    def warm_up(self, contenders: Iterable[Timed]) -> None:
        """Let each take one turn that is recorded and not counted."""
        self._round(contenders, 0)

    def take(self, contenders: Sequence[Timed], rounds: int) -> None:
        """Let them take turns; note where the time is over before the last round."""
        for number in range(1, rounds + 1):
            if not self._round(contenders, number):
                self._record.note(f"{self._what}, stopped in round {number} of {rounds}", why="the time is over")
                return

    def _round(self, contenders: Iterable[Timed], number: int) -> bool:
        """Return whether there was time for all."""
        for contender in contenders:
            for run in contender.runs:
                left = self._end - time.monotonic()
                if left <= 0:
                    return False
                if run not in self._lost:
                    self._turn(contender, run, number, left)
        return True

    def _turn(self, contender: Timed, run: str, number: int, left: float) -> None:
        try:
            answer = contender.time(run, self._steps, left)
        except Missing as error:
            self._record.missing(run, str(error))
            self._lost.add(run)
            return
        medians = {"median_ms": statistics.median(answer["ms"])}
        if number:
            answers = self.answers.setdefault(run, [])
            answers.append(answer)
            medians["median_of_rounds_ms"] = statistics.median(statistics.median(one["ms"]) for one in answers)
        label = f"round {number}" if number else "warming up"
        self._record.note(f"{self._what}, {run}, {label}", **medians, **answer)
