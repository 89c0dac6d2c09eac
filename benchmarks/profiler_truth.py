"""Coverage of a profile's intervals: one model compared with itself, twenty times.

Each trial compares two instances of the demo model as `vdmrt profile --against` does: in turn, in eight rounds, each
of which loads both again. The true ratio is 1, and the interval must contain it, for the chunk, the denoising step and
the cache fill: in at least 18 of 20 trials, otherwise the exit status is 1.

Also reported, without a gate: how often the intervals of two consecutive profiles overlap. The machine's speed may
change between them, which the interval of one run cannot include; a profile then warns that the machine is unsteady,
and the number of these warnings is reported.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from measuring import Gate, report

from vdmrt.profiler import Report, Settings, profile
from vdmrt.profiler.analysis.compare import Side, compare
from vdmrt.profiler.report.report import Comparison
from vdmrt.runtime import load

SKY = Path(__file__).parent.parent / "examples" / "sky" / "bundle"
HELD = 0.9
STAGES = ("chunk", "step", "fill")


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2, help="denoising steps of a chunk")
    parser.add_argument("--pairs", type=int, default=16, help="pairs of chunks in a comparison")
    parser.add_argument("--chunks", type=int, default=10, help="chunks of a profile")
    given = parser.parse_args()
    settings = Settings(SKY, steps=given.steps, warmup=0, chunks=given.chunks, decoding="off", roofline=False)
    comparisons = [compare_with_itself(settings, given.pairs, number) for number in range(given.trials)]
    meets, unsteady = profile_twice(settings, given.trials)
    held = {
        what: sum(1.0 in one.ratios[index].interval for one in comparisons)
        for index, what in enumerate(("autoregressive step", "denoising step", "cache fill"))
    }
    gates = [
        Gate(f"{what}: intervals that hold 1, of {given.trials}", count, least=HELD * given.trials)
        for what, count in held.items()
    ]
    for stage, count in meets.items():
        print(f"profiles one after the other, {stage}: intervals meet in {count} of {given.trials}")
    print(f"profiles that called the machine unsteady: {unsteady} of {2 * given.trials}")
    details = {
        "ratios": [[(r.ratio, r.interval.low, r.interval.high) for r in one.ratios] for one in comparisons],
        "two profiles one after the other, intervals that meet": meets,
        "profiles that called the machine unsteady": unsteady,
    }
    return report("profiler_truth", vars(given), gates, details)


def compare_with_itself(settings: Settings, pairs: int, number: int) -> Comparison:
    """Compare two instances of the same settings."""
    opener = partial(load, settings.bundle, verify=False)
    found = compare(Side(settings, opener), Side(settings, opener), what="itself", pairs=pairs)
    shown = ", ".join(f"{r.ratio:.4f} ({r.interval.low:.4f} to {r.interval.high:.4f})" for r in found.ratios)
    print(f"trial {number + 1}: {shown}", file=sys.stderr, flush=True)
    return found


def profile_twice(settings: Settings, trials: int) -> tuple[dict[str, int], int]:
    """Profile the same settings twice, ``trials`` times; return overlaps by stage and how many were unsteady."""
    meets, unsteady = Counter(dict.fromkeys(STAGES, 0)), 0
    for _ in range(trials):
        one, other = profile(settings), profile(settings)
        meets.update(stage for stage in STAGES if do_meet(one, other, stage))
        unsteady += sum(any("unsteady" in text for text in each.warnings) for each in (one, other))
    return dict(meets), unsteady


def do_meet(one: Report, other: Report, stage: str) -> bool:
    """Whether the two intervals of a stage's median overlap."""
    first, second = one.stages[stage].interval, other.stages[stage].interval
    return first.low <= second.high and second.low <= first.high


if __name__ == "__main__":
    sys.exit(main())
