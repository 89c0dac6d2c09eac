"""Times work on torch's device: CUDA events where there is a GPU, the host's clock in a rehearsal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["time_each"]


def time_each(run: Callable[[], Any], count: int, device: str) -> list[float]:
    """Run ``count`` times without a pause and return the milliseconds of each run."""
    if device == "cpu":
        times = []
        for _ in range(count):
            started = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - started))
        return times
    import torch

    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in zip(events, events[1:])]  # noqa: B905  (one shorter)
