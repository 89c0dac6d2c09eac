"""Runs stages in order within a budget; what is done already, by an earlier run, is not done again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from .report import Report
from .stage import Result, Stage

__all__ = ["ENDED_EARLIER", "LEAST_S", "run_stages"]

ENDED_EARLIER = "has ended in an earlier run"

# Below this nothing is started: a stage needs seconds to import its libraries.
LEAST_S = 5.0
Launch = Callable[[Stage, float, Callable[[list[dict[str, Any]]], None]], Result]


def run_stages(
    stages: Iterable[Stage],
    report: Report,
    launch: Launch,
    budget_s: float,
    *,
    has_kit: Callable[[str], bool] = lambda name: True,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, str]:
    """Run what has not ended yet, as long as there is time; the report is saved as records come.

    Args:
        stages: In order of value.
        report: Keeps what is found; a stage that ended there is passed over, one that was cut off runs again.
        launch: Runs a stage for at most so many seconds, calling back with its records so far.
        budget_s: For all of them.
        has_kit: Whether a kit has arrived.
        clock: Seconds.

    Returns:
        Why each stage that did not run did not.
    """
    end, waiting = clock() + budget_s, {}
    for stage in stages:
        lacking = [name for name in stage.kits if not has_kit(name)]
        left = min(stage.limit_s, end - clock())
        if report.ended(stage.name):
            waiting[stage.name] = ENDED_EARLIER
        elif lacking:
            waiting[stage.name] = f"kit {lacking[0]} has not arrived whole"
        elif left < LEAST_S:
            waiting[stage.name] = f"the budget of {budget_s:.0f} s is spent"
        else:
            _run_one(stage, report, launch, left)
    return waiting


def _run_one(stage: Stage, report: Report, launch: Launch, left: float) -> None:
    print(f"… {stage.name}: {stage.what} (at most {left:.0f} s)", file=sys.stderr, flush=True)
    report.keep(stage.name, [])
    result = launch(stage, left, lambda found: report.keep(stage.name, found))
    report.keep(stage.name, result)
    print(f"  {result.status} in {result.seconds:.0f} s {result.why[-300:]}", file=sys.stderr, flush=True)
