"""How long the GPU rests between two replays of the denoising step, from a trace of its kernels (CUPTI, by torch)."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ..running.record import Recorder

__all__ = ["check_idle", "idle_share"]

# Allowed of the time between the first and the last kernel of a chunk's denoising steps.
IDLE_PERCENT = 1.0
_BUSY = ("kernel", "gpu_memcpy", "gpu_memset")


def check_idle(session: Any, record: Recorder, what: str) -> None:
    """Trace one chunk of a session, close it, and check the gaps between its denoising steps against their limit."""
    name = f"{what}, GPU idle between denoising steps, from a trace"
    with session:
        try:
            import torch
        except ImportError:
            record.missing(name, "tracing needs torch in this interpreter")
            return
        if not torch.cuda.is_available():
            record.missing(name, "tracing needs a GPU")
            return
        session.step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            steps = len(session.step().timings.denoise_ms)
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    busy = sorted((one["ts"], one["ts"] + one["dur"], one["name"]) for one in events if one.get("cat") in _BUSY)
    try:
        share, each = idle_share(busy, steps)
    except ValueError as error:
        record.missing(name, str(error))
        return
    record.add(name, 100 * share, "percent", most=IDLE_PERCENT, steps=steps, operations_each=each, traced=len(busy))


def idle_share(busy: list[tuple[float, float, str]], steps: int) -> tuple[float, int]:
    """Return the share of the denoising steps' time that passes between steps, and the operations of one step.

    A chunk's trace is something before, then ``steps`` times the same operations, then something after (the cache fill
    and its copies). The longest stretch that repeats itself tells them apart.

    Args:
        busy: Begin, end and name of every kernel, copy and memset on the GPU, in order.
        steps: How many denoising steps there were, at least 2.

    Raises:
        ValueError: Nothing repeats that often.
    """
    names = [name for _, _, name in busy]
    candidates = ((*_longest_repeat(names, each), each) for each in range(1, len(names) // steps + 1))
    length, first, each = max(candidates, key=lambda found: found[0], default=(0, 0, 1))
    if length < each * (steps - 1) or not length:
        raise ValueError(f"{len(busy)} operations cannot be told apart into {steps} steps")
    starts = list(range(first, first + each * steps, each))
    gaps = sum(max(0.0, busy[start][0] - busy[start - 1][1]) for start in starts[1:])
    return gaps / (busy[starts[-1] + each - 1][1] - busy[first][0]), each


def _longest_repeat(names: list[str], each: int) -> tuple[int, int]:
    """Return length and start of the longest run of operations that come again ``each`` operations later."""
    best, run = (0, 0), 0
    for index in range(len(names) - each):
        run = run + 1 if names[index] == names[index + each] else 0
        if run > best[0]:
            best = (run, index - run + 1)
    return best
