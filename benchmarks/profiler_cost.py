"""Overhead of the profiler: chunks of the demo model with and without a recorder, in turn.

Sessions run on one thread, in blocks of four chunks: without, with, with, without (reversed in every second block), so
that a slow drift affects both equally. Figures are CPU times of the session's thread, which exclude other processes:
the median over the blocks, with its interval.

- Time that the recorder adds to a chunk of a tiny model, which is short enough to show it. The gate is the upper end of
  the interval, over a denoising step of the demo model.
- Ratio of chunks of the demo model with and without the recorder, which includes its effect on the CPU's caches. The
  interval's width depends on the machine, as the next figure shows, so it is reported without a gate.
- Ratio of chunks without the recorder to chunks without it: the method's own noise.
- The recorder's own time, measured by calling it as a session does; also a gate.

Exit status 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import Gate, report

from vdmrt.export import ExportOptions, TransformerConfig, export_bundle, random_model
from vdmrt.profiler import Recorder, Settings
from vdmrt.profiler.analysis.statistics import Interval, median_interval
from vdmrt.profiler.measuring.measurement import Rollout
from vdmrt.runtime import Chunk, load
from vdmrt.runtime.session.chunk import Observer

SKY = Path(__file__).parent.parent / "examples" / "sky" / "bundle"
STEPS, TINY_BLOCKS, REPEATS, MOST_PERCENT = 4, 500, 2000, 0.5
TINY = TransformerConfig(latent_size=(4, 4), hidden_size=32, depth=2, heads=2, position_count=12)


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--blocks", type=int, default=60, help="blocks of four chunks of the demo, for each of the two ratios"
    )
    given = parser.parse_args()
    with load(SKY, threads=1) as model:
        rollout = Rollout(model, Settings(SKY, steps=STEPS, decoding="off"))
        with rollout.session:
            rollout.start()
            chunks = [rollout.step() for _ in range(8)]
            with_recorder = [ratio_of(pair) for pair in run_blocks(rollout, given.blocks, Recorder())]
            without = [ratio_of(pair) for pair in run_blocks(rollout, given.blocks, None)]
    step_ms = statistics.median(ms for chunk in chunks for ms in chunk.timings.denoise_ms)
    added_us = measure_tiny()
    own_us = time_recorder(Recorder(), chunks[-1])
    felt, same, added = median_interval(with_recorder), median_interval(without), median_interval(added_us)
    gates = [
        Gate(
            "added to a chunk, percent of a demo's denoising step", added.high / 10 / STEPS / step_ms, most=MOST_PERCENT
        ),
        Gate("recorder's own time, percent of a denoising step", own_us / 10 / STEPS / step_ms, most=MOST_PERCENT),
    ]
    details = {
        "denoising step, ms on one thread": step_ms,
        "recorder's own time per chunk, microseconds": own_us,
        "added to a chunk of the tiny model, microseconds": describe(added_us, added, "median"),
        "on against off, CPU time": describe(with_recorder, felt),
        "off against off, CPU time": describe(without, same),
    }
    for name, values, interval in (("on against off", with_recorder, felt), ("off against off", without, same)):
        shown = f"99 % interval {interval.low:.5f} to {interval.high:.5f}"
        print(f"{name}: CPU time of a chunk, ratio {statistics.median(values):.5f} ({shown})")
    print(f"added to a tiny model's chunk: {statistics.median(added_us):.1f} µs ({added.low:.1f} to {added.high:.1f})")
    print(f"recorder: {own_us:.1f} µs a chunk of {STEPS} steps; a step takes {step_ms:.2f} ms on one thread")
    return report("profiler_cost", {"steps": STEPS, "threads": 1, "blocks": given.blocks}, gates, details)


def measure_tiny() -> list[float]:
    """Return the microseconds of CPU time that a recorder adds to a chunk of a tiny model, for each block."""
    with tempfile.TemporaryDirectory() as folder:
        options = ExportOptions(chunk_frames=2, slots=4, max_steps=STEPS, prediction="v")
        path = export_bundle(
            random_model(TINY, 1), Path(folder) / "tiny", options, name="tiny", random_weights=True
        ).path
        with load(path, threads=1) as model:
            rollout = Rollout(model, Settings(path, steps=STEPS, decoding="off"))
            with rollout.session:
                rollout.start()
                run_blocks(rollout, 5, None)
                pairs = run_blocks(rollout, TINY_BLOCKS, Recorder())
    return [1e6 * (heard - unheard) / 2 for heard, unheard in pairs]


def run_blocks(rollout: Rollout, blocks: int, observer: Observer | None) -> list[tuple[float, float]]:
    """Return for each block the CPU time of the two chunks with ``observer``, and of the two without."""
    pairs = []
    for number in range(blocks):
        order = (None, observer, observer, None) if number % 2 else (observer, None, None, observer)
        times = [time_chunk(rollout, heard) for heard in order]
        outer, inner = times[0] + times[3], times[1] + times[2]
        pairs.append((inner, outer) if number % 2 else (outer, inner))
    return pairs


def ratio_of(pair: tuple[float, float]) -> float:
    """Return the time with the observer over the time without."""
    return pair[0] / pair[1]


def time_chunk(rollout: Rollout, observer: Observer | None) -> float:
    """Return the CPU seconds of this thread for a chunk."""
    rollout.session.observer = observer
    began = time.thread_time()
    rollout.step()
    return time.thread_time() - began


def describe(values: Sequence[float], interval: Interval, what: str = "ratio") -> dict[str, float]:
    """Return a figure with its interval for the record."""
    return {what: statistics.median(values), "low": interval.low, "high": interval.high}


def time_recorder(observer: Observer, chunk: Chunk) -> float:
    """Return the median microseconds of all calls of an observer for one chunk."""
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
