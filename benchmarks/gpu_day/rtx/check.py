"""Does TensorRT for RTX run on this GPU, does it compute what ONNX Runtime does, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..checks.ceilings import import_torch
from ..checks.device_clock import time_each
from ..checks.distance import relative_error
from ..checks.golden import TEACHER_FORCED
from ..full_size.xl import prepare_bundle
from ..running.record import Missing, Recorder
from ..running.settings import Settings, need_gpu
from .cases import Case, find_cases
from .engine import Engine, Refused, judge_plan
from .module import Rtx, import_rtx

__all__ = ["build_full_size", "check_cases", "check_verdict", "plan_path"]

REPEATS, WARMUP = 50, 10
# Allowed of 8 bit graphs: they round differently wherever a product is fused otherwise than on the CPU.
EIGHT_BITS = 3e-2


def check_verdict(settings: Settings, record: Recorder) -> None:
    """Record whether each plan runs here, with TensorRT's messages: carried plans, then those built here."""
    need_gpu(settings)
    rtx = import_rtx()
    record.note("TensorRT for RTX", version=rtx.trt.__version__)
    cases = find_cases(_cases_of(settings, "base"))
    if not cases:
        raise Missing(f"no recorded call in {_cases_of(settings, 'base')}")
    # The carried plans first: building may be refused as well, and takes longer.
    for case in cases:
        for target, path in case.plans.items():
            _judge(rtx, case, target, path.read_bytes, settings, record)
    for case in cases:
        if not case.plans:
            _judge(rtx, case, "any", partial(_built, rtx, case, settings), settings, record)


def _judge(
    rtx: Rtx, case: Case, target: str, make_plan: Callable[[], bytes], settings: Settings, record: Recorder
) -> None:
    what = f"rtx plan of {case.name} for {target} GPU" if target == "any" else f"rtx plan of {case.name} for {target}"
    rtx.forget()
    try:
        plan = make_plan()
        _note_validity(rtx, what, plan, record)
        engine = Engine(rtx, plan, settings.device)
        engine.set(case.inputs)
        engine.run()
        _synchronize(settings)
        record.note(f"{what}, verdict", verdict="runs")
    except Exception as error:  # whatever it is, it is the verdict
        text = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        record.note(f"{what}, verdict", verdict="refused", said=text[:2000], logged=rtx.errors()[:10])


def _note_validity(rtx: Rtx, what: str, plan: bytes, record: Recorder) -> None:
    try:
        record.note(f"{what}, validity", **judge_plan(rtx, plan))
    except Exception as error:  # the answer that matters is the verdict
        record.note(f"{what}, validity", error=f"{type(error).__name__}: {error}")


def _built(rtx: Rtx, case: Case, settings: Settings) -> bytes:
    """Return the plan of a case for every GPU, built where an earlier stage has not built it."""
    path = Path(settings.work) / "rtx-plans" / f"{case.name}.plan"
    if not path.is_file():
        _write_whole(path, rtx.build(str(case.graph)))
    return path.read_bytes()


def _write_whole(path: Path, plan: bytes) -> None:
    """Write a plan that is there whole or not at all, also where the stage is killed meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(plan)
    part.replace(path)


def check_cases(settings: Settings, record: Recorder, *, kit: str = "base") -> None:
    """Run every recorded call, compare it with ONNX Runtime's result, and time it.

    A case without a plan that fits is built here.
    """
    need_gpu(settings)
    import_torch(settings.device)
    rtx = import_rtx()
    for case in find_cases(_cases_of(settings, kit)):
        try:
            _check_case(rtx, case, settings, record)
        except Exception as error:  # one case that fails must not take the others with it
            text = f"{type(error).__name__}: {error}"[:2000]
            record.note(f"rtx {case.name}, refused", said=text, logged=rtx.errors()[:10])


def _cases_of(settings: Settings, kit: str) -> Path:
    return Path(settings.kits) / kit / "rtx"


def _check_case(rtx: Rtx, case: Case, settings: Settings, record: Recorder) -> None:
    started = time.perf_counter()
    plan = case.plans["any"].read_bytes() if "any" in case.plans else _built(rtx, case, settings)
    built = time.perf_counter() - started
    engine = Engine(rtx, plan, settings.device)
    engine.set(case.inputs)
    engine.run()
    _synchronize(settings)
    record.note(f"rtx {case.name}, ready", seconds_to_plan=built, seconds_to_first_run=time.perf_counter() - started)
    limit = TEACHER_FORCED if case.name.endswith("fp16") and "int8" not in case.name else EIGHT_BITS
    for name in engine.outputs:
        if case.outputs[name].dtype.kind == "f":
            error = relative_error(engine.get(name), case.outputs[name])
            record.add(f"rtx {case.name}, {name}, relative L2 to ONNX Runtime's CPU provider", error, most=limit)
    record_times(f"rtx {case.name}, a denoising step", engine, settings, record)


def record_times(what: str, engine: Engine, settings: Settings, record: Recorder) -> None:
    """Record the time of a run, enqueued and as a CUDA graph."""
    record.add(what, _median(engine.run, settings), "ms", statistic=f"median of {REPEATS} after {WARMUP}")
    if settings.device == "cpu":
        return
    try:
        replay = engine.captured()
    except Exception as error:  # the enqueued time is kept
        record.missing(f"{what}, CUDA graph", f"{type(error).__name__}: {error}"[:1000])
        return
    record.add(f"{what}, CUDA graph", _median(replay, settings), "ms", statistic=f"median of {REPEATS} after {WARMUP}")


def build_full_size(settings: Settings, record: Recorder, *, depth: int) -> None:
    """Build the plans of XL/2 on this machine, denoise first; record the seconds."""
    need_gpu(settings)
    rtx, folder = import_rtx(), prepare_bundle(settings, depth)
    for stage in ("denoise", "fill"):
        started = time.perf_counter()
        plan, target = _build_here(rtx, str(folder / "graphs" / f"{stage}.fp16.onnx"), settings)
        seconds = time.perf_counter() - started
        _write_whole(plan_path(settings, depth, stage), plan)
        record.add(f"rtx depth {depth} {stage}, build", seconds, "s", plan_nbytes=len(plan), target=target)


def plan_path(settings: Settings, depth: int, stage: str) -> Path:
    """Return where a plan of XL/2 is kept."""
    return Path(settings.work) / f"xl-{depth}-{stage}.rtx.plan"


def _build_here(rtx: Rtx, graph: str, settings: Settings) -> tuple[bytes, str]:
    """Build for this GPU, and for every GPU where it is no target of this release; return the target too."""
    if settings.device == "cpu":
        return rtx.build(graph), "any"
    try:
        return rtx.build(graph, ["CURRENT"]), "CURRENT"
    except Exception as error:  # whatever it is, the other plan may be possible
        return rtx.build(graph), f"any, because: {error}"[:500]


def _median(run: Callable[[], Any], settings: Settings) -> float:
    repeats, warmup = (3, 1) if settings.rehearse else (REPEATS, WARMUP)
    time_each(run, warmup, settings.device)
    return statistics.median(time_each(run, repeats, settings.device))


def _synchronize(settings: Settings) -> None:
    if settings.device != "cpu":
        import torch

        torch.cuda.synchronize()
