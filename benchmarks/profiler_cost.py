"""What it costs to leave the profiler on: chunks of the shipped model with a recorder and without, in turn.

Two figures. The ratio of neighbouring chunks says what a user feels, as far as the machine is steady: its interval is
printed with it, and beside it that of two runs without. The recorder's own time, measured by calling it as a session
does, says what it adds to a denoising step whatever the machine does; that one is the gate. Exit status 1 when it is
missed.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from pathlib import Path

from measuring import Gate, report

from vdmrt.runtime import Chunk, load
from vdmrt.runtime.chunk import Observer
from vdmrt.runtime.profiler import Recorder, Settings
from vdmrt.runtime.profiler.compare import compare
from vdmrt.runtime.profiler.measurement import Rollout

SKY = Path(__file__).parent.parent / "examples" / "sky" / "bundle"
STEPS, PAIRS, REPEATS = 4, 60, 2000


class Observed(Rollout):
    """A rollout that a recorder listens to."""

    def start(self) -> None:
        """Begin anew, with a new recorder."""
        Recorder().attach(self.session)
        super().start()


def main() -> int:
    """Measure and report."""
    settings = Settings(SKY, steps=STEPS, warmup=2, decoding="off")
    with load(SKY) as model:
        plain = Rollout(model, settings)
        with plain.session as session:
            plain.start()
            plain.step()
            chunk = plain.step()
            step_ms = statistics.median(session.step().timings.denoise_ms)
        felt = compare((model, settings), (model, settings), what="recorder on", pairs=PAIRS, make=(Rollout, Observed))
        same = compare((model, settings), (model, settings), what="off again", pairs=PAIRS)
    own_us = time_recorder(Recorder(), chunk)
    share = 100 * own_us / STEPS / 1e3 / step_ms
    gates = [Gate("recorder's own time, percent of a denoising step", share, most=0.5)]
    details = {
        "denoising step, ms": step_ms,
        "recorder's own time per chunk, microseconds": own_us,
        "on against off": dataclasses.asdict(felt.ratios[0]),
        "off against off": dataclasses.asdict(same.ratios[0]),
    }
    for name, found in (("on against off", felt), ("off against off", same)):
        ratio = found.ratios[0]
        print(f"{name}: {ratio.ratio:.4f} (99 % interval {ratio.interval.low:.4f} to {ratio.interval.high:.4f})")
    print(f"recorder: {own_us:.1f} µs a chunk of {STEPS} steps, a step takes {step_ms:.2f} ms")
    return report("profiler_cost", {"steps": STEPS, "pairs": PAIRS}, gates, details)


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
