"""What it costs to leave the profiler on: chunks of the shipped model with a recorder and without, in turn.

Three figures, all of one session on one thread:

- The ratio of CPU time: blocks of four chunks, without, with, with, without (and the other way about in every second
  block), so that a slow drift falls on both alike. It is the time that the session's thread was running, so what a busy
  neighbour takes does not count; what the recorder does, and what it drives out of the caches, does. The median over
  the blocks, with its interval; what exceeds 1 is charged to the denoising steps alone. The interval's upper end is the
  gate.
- The same of chunks without against chunks without: what the method says where there is nothing to find.
- The recorder's own time, measured by calling it as a session does; a gate too.

Exit status 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import Gate, report

from vdmrt.runtime import Chunk, load
from vdmrt.runtime.chunk import Observer
from vdmrt.runtime.profiler import Recorder, Settings
from vdmrt.runtime.profiler.measurement import Rollout
from vdmrt.runtime.profiler.statistics import Interval, median_interval

SKY = Path(__file__).parent.parent / "examples" / "sky" / "bundle"
STEPS, REPEATS, MOST_PERCENT = 4, 2000, 0.5


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=150, help="blocks of four chunks, for each of the two ratios")
    given = parser.parse_args()
    with load(SKY, threads=1) as model:
        rollout = Rollout(model, Settings(SKY, steps=STEPS, decoding="off"))
        with rollout.session:
            rollout.start()
            chunks = [rollout.step() for _ in range(8)]
            with_recorder = run_blocks(rollout, given.blocks, Recorder())
            without = run_blocks(rollout, given.blocks, None)
    step_ms = statistics.median(ms for chunk in chunks for ms in chunk.timings.denoise_ms)
    # Of a chunk's time the denoising steps are the greater part; what is found is charged to them alone.
    scale = statistics.median(chunk.timings.total_ms for chunk in chunks) / (STEPS * step_ms)
    own_us = time_recorder(Recorder(), chunks[-1])
    felt, same = median_interval(with_recorder), median_interval(without)
    gates = [
        Gate("on against off, percent of a denoising step, upper end", percent(felt.high, scale), most=MOST_PERCENT),
        Gate("recorder's own time, percent of a denoising step", own_us / 10 / STEPS / step_ms, most=MOST_PERCENT),
    ]
    details = {
        "denoising step, ms on one thread": step_ms,
        "recorder's own time per chunk, microseconds": own_us,
        "on against off, CPU time": describe(with_recorder, felt),
        "off against off, CPU time": describe(without, same),
    }
    for name, values, interval in (("on against off", with_recorder, felt), ("off against off", without, same)):
        shown = f"99 % interval {interval.low:.5f} to {interval.high:.5f}"
        print(f"{name}: CPU time of a chunk, ratio {statistics.median(values):.5f} ({shown})")
    print(f"recorder: {own_us:.1f} µs a chunk of {STEPS} steps; a step takes {step_ms:.2f} ms on one thread")
    return report("profiler_cost", {"steps": STEPS, "threads": 1, "blocks": given.blocks}, gates, details)


def run_blocks(rollout: Rollout, blocks: int, observer: Observer | None) -> list[float]:
    """Return for each block the CPU time of the chunks that ``observer`` heard over that of those nobody heard."""
    ratios = []
    for number in range(blocks):
        order = (None, observer, observer, None) if number % 2 else (observer, None, None, observer)
        times = [time_chunk(rollout, heard) for heard in order]
        outer, inner = times[0] + times[3], times[1] + times[2]
        ratios.append(inner / outer if number % 2 else outer / inner)
    return ratios


def time_chunk(rollout: Rollout, observer: Observer | None) -> float:
    """Return the seconds that this thread ran to make a chunk."""
    rollout.session.observer = observer
    began = time.thread_time()
    rollout.step()
    return time.thread_time() - began


def percent(ratio: float, scale: float) -> float:
    """Return what a ratio of chunks exceeds 1 by, in percent of the denoising steps."""
    return 100 * (ratio - 1) * scale


def describe(values: Sequence[float], interval: Interval) -> dict[str, float]:
    """Return a ratio for the record."""
    return {"ratio": statistics.median(values), "low": interval.low, "high": interval.high}


def time_recorder(observer: Observer, chunk: Chunk) -> float:
    """Return the median microseconds of everything that a session tells an observer of one chunk."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for stage in ("noise", "denoise", "fill", "scatter"):
            observer.begin(stage)
            if stage == "denoise":
                for done in range(STEPS):
                    observer.step(done + 1)
            observer.end(stage)
        observer.finish(chunk)
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
