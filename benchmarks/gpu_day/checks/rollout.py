"""A thousand autoregressive steps: flat memory, flat time, replay as eager bit for bit, and two lanes at once."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..running.record import Missing, Recorder
from ..running.settings import Settings, load_model, need_gpu
from .idle import check_idle
from .plans import has_engine, place_bundle

__all__ = ["check_rollout", "check_threads"]

Array = npt.NDArray[Any]
CHUNKS, WINDOW = 1000, 100
# Before the first that counts: clocks rise for seconds after a GPU was idle, and small models make a chunk in 1 ms.
WARMUP_CHUNKS, WARMUP_S = 100, 5.0
STEPS = {"tiny": 6, "sky": 10}
# Allowed: drift of an autoregressive step's time, and host time of a denoising step.
FLAT_PERCENT, HOST_US = 2.0, 10.0


def check_rollout(settings: Settings, record: Recorder, *, backend: str) -> None:
    """Run the long rollouts of the tiny model and of the trained one."""
    need_gpu(settings)
    found = False
    for name, steps in STEPS.items():
        path, what = place_bundle(settings, name), f"{backend} {name}"
        if backend == "tensorrt" and not has_engine(path):
            record.missing(what, f"no engine in {path}; run the stage build-tensorrt")
            continue
        found = True
        with load_model(path, backend, "fp16", settings.device) as model:
            record.note(f"{what} runs on", describes=model.describe())
            _check_long(model, settings, record, what, steps)
            _check_steps(model, settings, record, what)
            check_threads(model, settings, record, what)
            check_idle(_session(model, seed=4, steps=steps), record, what)
            replayed = _some_chunks(model, settings)
        if settings.device == "cpu":
            continue
        with load_model(path, backend, "fp16", settings.device, cuda_graph=False) as model:
            different = int((replayed != _some_chunks(model, settings)).sum())
            record.add(
                f"{what}, replay against eager, elements that differ",
                different,
                "elements",
                most=0,
                count=int(replayed.size),
            )
    if not found:
        raise Missing("no bundle of a long rollout can be run")


def _some_chunks(model: Any, settings: Settings) -> Array:
    """Return the latents of some chunks, until the cache has wrapped twice."""
    g = model.manifest.geometry
    chunks = 2 if settings.rehearse else 2 * -(-g.slots // g.chunk_frames) + 1
    with _session(model, seed=3, steps=4) as session:
        return _run(session, chunks)


def _check_long(model: Any, settings: Settings, record: Recorder, what: str, steps: int) -> None:
    chunks, window = (8, 4) if settings.rehearse else (CHUNKS, WINDOW)
    steps = 2 if settings.rehearse else steps
    with _session(model, seed=1, steps=steps) as session:
        warmed = _warm_up(session, *((2, 0.0) if settings.rehearse else (WARMUP_CHUNKS, WARMUP_S)))
        free = free_nbytes(settings.device)
        walls, timings, span = [], [], time.perf_counter()
        for _ in range(chunks):
            started = time.perf_counter()
            timings.append(session.step().timings)
            walls.append(1e3 * (time.perf_counter() - started))
        span = time.perf_counter() - span
        left = free_nbytes(settings.device)
    if free is not None and left is not None:
        record.add(f"{what}, device bytes lost over {chunks} autoregressive steps", free - left, "bytes", most=0)
    device = [sum(one.denoise_ms) for one in timings]
    for name, values in (("device time of the denoising steps", device), ("wall time", walls)):
        early, late = statistics.median(values[:window]), statistics.median(values[-window:])
        drift = 100 * abs(late / early - 1)
        record.add(
            f"{what}, {name} of an autoregressive step, late against early",
            drift,
            "percent",
            most=None if settings.rehearse else FLAT_PERCENT,
            statistic=f"medians of the first and of the last {window} of {chunks}, after {warmed} that warm up",
            early_ms=early,
            late_ms=late,
            windows_ms=[statistics.median(values[at : at + window]) for at in range(0, chunks, window)],
        )
    _record_parts(settings, record, what, timings, steps, span)


def _warm_up(session: Any, chunks: int, seconds: float) -> int:
    """Make chunks until there were so many and so much time has passed; return how many there were."""
    made, started = 0, time.perf_counter()
    while made < chunks or time.perf_counter() - started < seconds:
        session.step()
        made += 1
    return made


def _record_parts(
    settings: Settings, record: Recorder, what: str, timings: Sequence[Any], steps: int, span: float
) -> None:
    """Record where the time of an autoregressive step goes, and the host's part of a denoising step."""
    each = [ms for one in timings for ms in one.denoise_ms]
    parts = {
        part: statistics.median(getattr(one, part) for one in timings)
        for part in ("noise_ms", "fill_ms", "scatter_ms", "total_ms")
    }
    record.add(
        f"{what}, a denoising step",
        statistics.median(each),
        "ms",
        statistic=f"median of {len(each)}",
        steps=steps,
        **parts,
    )
    busy = sum(each) + sum(one.fill_ms + one.scatter_ms for one in timings)
    record.add(f"{what}, time outside graphs and copies", 100 * (1 - busy / 1e3 / span), "percent", span_s=span)
    # A step waits for nothing but the host, so what the quickest of them do not need is at most idle time.
    quick = float(np.percentile(each, 5))
    record.add(
        f"{what}, GPU idle between denoising steps, upper bound",
        100 * (1 - quick / statistics.fmean(each)),
        "percent",
        statistic="mean over the 5th percentile of the steps' device times",
        p5_ms=quick,
        mean_ms=statistics.fmean(each),
        p95_ms=float(np.percentile(each, 95)),
    )
    _record_host(settings, record, what, timings)


def _record_host(settings: Settings, record: Recorder, what: str, timings: Sequence[Any]) -> None:
    """Record the host's part of a denoising step, where the backend measures it."""
    enqueue = [us for one in timings for us in getattr(one, "enqueue_us", ())]
    if enqueue:
        host = statistics.median(enqueue)
        record.add(
            f"{what}, host time of a denoising step",
            host,
            "us",
            most=None if settings.device == "cpu" else HOST_US,
            statistic=f"median of {len(enqueue)}",
            p95_us=float(np.percentile(enqueue, 95)),
        )


def _check_steps(model: Any, settings: Settings, record: Recorder, what: str) -> None:
    """Record the host time of a denoising step for few and for many steps: it must not depend on their number."""
    found = {}
    for steps in (2, min(50, model.manifest.geometry.max_steps)):
        with _session(model, seed=2, steps=steps) as session:
            timings = [session.step().timings for _ in range(3 if settings.rehearse else 20)]
        values = [us for one in timings[1:] for us in getattr(one, "enqueue_us", ())]
        if values:
            found[steps] = statistics.median(values)
    if found:
        few, many = min(found), max(found)
        change = found[many] / found[few]
        record.add(f"{what}, host time of a denoising step, {many} steps over {few}", change, "x", us=found)


def check_threads(model: Any, settings: Settings, record: Recorder, what: str, *, chunks: int = 30) -> None:
    """Run two lanes in two threads at once, and compare both with the same sessions run alone."""
    chunks, steps = 3 if settings.rehearse else chunks, 4
    sessions = [_session(model, seed=seed, steps=steps) for seed in range(model.manifest.geometry.requests + 1)]
    try:
        pair = [sessions[0], sessions[-1]]
        assert pair[0].lane is not pair[1].lane, "the last session has a lane of its own"
        alone = [_run(session, chunks) for session in pair]
        for session in pair:
            session.start(_first(model))
        together = _run_threads(pair, chunks)
    finally:
        for session in sessions:
            session.close()
    for name, wanted, found in zip(("first", "second"), alone, together):  # noqa: B905  (Python 3.10, numpy 1.23)
        different = int((wanted != found).sum()) if found is not None else wanted.size
        record.add(f"{what}, {name} of two lanes in two threads, elements that differ", different, "elements", most=0)


def _run_threads(sessions: Sequence[Any], chunks: int) -> list[Array | None]:
    made: list[Array | None] = [None] * len(sessions)

    def work(index: int) -> None:
        made[index] = _run(sessions[index], chunks)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(sessions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made


def _run(session: Any, chunks: int) -> Array:
    return np.stack([np.asarray(session.step().latents) for _ in range(chunks)])


def _first(model: Any) -> Array:
    shape = model.manifest.geometry.latent_shape
    return np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)


def _session(model: Any, *, seed: int, steps: int) -> Any:
    session = model.session(seed=seed, steps=min(steps, model.manifest.geometry.max_steps))
    session.start(_first(model))
    return session


def free_nbytes(device: str) -> int | None:
    """Return the GPU's free bytes, or None in a rehearsal."""
    if device == "cpu":
        return None
    from vdmrt.runtime import _core

    gpu: Any = _core.cuda_device(int(device.partition(":")[2] or 0))
    free: int = gpu.memory_info()[0]
    return free
