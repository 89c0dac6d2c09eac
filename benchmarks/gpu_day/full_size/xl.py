"""The full size: TensorRT, ONNX Runtime CUDA and torch in turn, beside what the GPU reaches at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..running.contender import Contender
from ..running.record import Missing, Recorder
from ..running.settings import Settings
from .turns import Turns
from .weights import make_weights

__all__ = ["make_weights_of", "measure_xl", "prepare_bundle"]

# Of a stage's limit: kept for the rounds when contenders load, and for the summary when the rounds run.
ROUNDS_S, SUMMARY_S = 15.0, 5.0
# vdmrt's latents against torch's, one step, both FP16: relative L2.
AGREEMENT = 1e-2
LOWER_BOUND = "TensorRT 8.5 fuses no attention: its times are a lower bound on what newer releases do"
BASE = "torch eager"


def prepare_bundle(settings: Settings, depth: int) -> Path:
    """Return the full-size bundle with weights, made where it is not there yet.

    Raises:
        Missing: The described bundle is not there.
    """
    source, target = Path(settings.xl) / f"xl-{depth}", Path(settings.work) / f"xl-{depth}"
    if not (source / "weights.json").is_file():
        raise Missing(f"no described bundle {source}; the base kit carries it")
    mark, wanted = target / "made-from.json", (source / "weights.json").read_bytes()
    if not mark.exists() or mark.read_bytes() != wanted:
        make_weights(source, target, settings.seed)
        mark.write_bytes(wanted)
    return target


def make_weights_of(settings: Settings, record: Recorder, *, depth: int) -> None:
    """Make the weights once, before anything is timed."""
    folder = prepare_bundle(settings, depth)
    record.note("weights", folder=str(folder), seed=settings.seed)


def measure_xl(
    settings: Settings,
    record: Recorder,
    *,
    depth: int,
    limit_s: float,
    modes: Sequence[str] = (),
    kinds: Sequence[str] = ("torch", "rtx", "onnxruntime", "tensorrt"),
    uncached: str | None = None,
    rounds: int = 10,
    steps: int = 10,
) -> None:
    """Time the contenders that are there, in turn; every answer is recorded when it arrives.

    Args:
        settings: The device, and where the bundle is.
        record: Gets the figures.
        depth: Blocks of the model.
        limit_s: When the stage is killed; the summary is written before.
        modes: Of torch.compile.
        kinds: The contenders, in the order in which they load.
        uncached: Whether torch also runs without a cache: "eager", or "compiled" too.
        rounds: In which each contender takes a turn.
        steps: Of a turn.
    """
    end = time.monotonic() + limit_s - SUMMARY_S
    folder = prepare_bundle(settings, depth)
    turns = Turns(record, f"depth {depth}", 2 if settings.rehearse else steps, end)
    contenders: list[Contender] = []
    given = {"folder": str(folder), "modes": list(modes), "uncached": uncached, "depth": depth}
    try:
        for kind in kinds:
            arguments = {**given, "kind": kind, "latents": str(_latents_path(settings, depth, kind))}
            contender = _load(kind, settings, arguments, record, end - ROUNDS_S)
            if contender is not None:
                contenders.append(contender)
                turns.warm_up([contender])
        if not contenders:
            raise Missing("no contender could be loaded; see the records")
        _compare(settings, record, depth, [contender.name for contender in contenders])
        turns.take(contenders, 2 if settings.rehearse else rounds)
    finally:
        for contender in contenders:
            contender.close()
    notes = {key: value for contender in contenders for key, value in contender.notes.items()}
    _report(folder, depth, turns.answers, notes, record)


def _load(kind: str, settings: Settings, arguments: dict[str, Any], record: Recorder, end: float) -> Contender | None:
    """Start a contender and wait until it has loaded: another's load would disturb torch's autotuning."""
    what = f"depth {arguments['depth']}, {kind}"
    try:
        contender = Contender(kind, "main" if kind == "torch" else kind, settings, arguments)
        try:
            contender.wait(max(1.0, end - time.monotonic()))
        except Missing:
            contender.close()
            raise
    except Missing as error:
        record.missing(what, str(error))
        return None
    record.note(f"{what} is ready", **contender.notes)
    return contender


def _report(
    folder: Path, depth: int, times: dict[str, list[dict[str, Any]]], notes: dict[str, Any], record: Recorder
) -> None:
    from vdmrt.bundle import FP16, open_bundle

    graph = open_bundle(folder).manifest.graphs[FP16]["denoise"]
    middle = {run: [statistics.median(answer["ms"]) for answer in answers] for run, answers in times.items()}
    roof = _roofline(graph, middle, notes, record, depth)
    for run, medians in middle.items():
        if run.startswith("ceiling"):
            continue
        each = [ms for answer in times[run] for ms in answer["ms"]]
        ms = statistics.median(medians)
        details: dict[str, Any] = {
            "statistic": f"median of {len(medians)} rounds' medians of {len(times[run][0]['ms'])} steps, in turn",
            "fastest_ms": min(each),
            "slowest_ms": max(each),
            "tflop_per_s": graph.flops / ms / 1e9,
        }
        for part in ("fill_ms", "total_ms", "enqueue_us"):
            values = [value for answer in times[run] for value in answer.get(part, ())]
            if values:
                details[part] = statistics.median(values)
        if run == "vdmrt tensorrt":
            details["note"] = LOWER_BOUND
        record.add(f"depth {depth}, {run}, a denoising step", ms, "ms", **details)
        if BASE in middle and run != BASE:
            ratio = statistics.median(a / b for a, b in zip(middle[BASE], medians))  # noqa: B905  (one may be lost)
            record.add(f"depth {depth}, {BASE} over {run}", ratio, "x")
        if roof is not None and "without a cache" not in run:
            record.add(f"depth {depth}, {run}, fraction of the roofline", roof / ms)


def _roofline(
    graph: Any, middle: dict[str, list[float]], notes: dict[str, Any], record: Recorder, depth: int
) -> float | None:
    """Record the ceilings of this run; return the milliseconds that a step takes at them, or None without torch."""
    if "ceiling product" not in middle or "ceiling copy" not in middle:
        return None
    rate = notes["ceiling_flops"] / statistics.median(middle["ceiling product"]) / 1e9
    bandwidth = notes["ceiling_nbytes"] / statistics.median(middle["ceiling copy"]) / 1e9
    by_flops, by_bytes = graph.flops / rate / 1e9, graph.nbytes_moved / bandwidth / 1e9
    record.add("fp16 product of this run", rate, "TFLOP/s")
    record.add("copy of this run, bytes read and written", bandwidth, "TB/s")
    record.add(
        f"depth {depth}, a denoising step at the ceilings",
        max(by_flops, by_bytes),
        "ms",
        tflop=graph.flops / 1e12,
        gigabytes=graph.nbytes_moved / 1e9,
        by_flops_ms=by_flops,
        by_bytes_ms=by_bytes,
    )
    return float(max(by_flops, by_bytes))


def _compare(settings: Settings, record: Recorder, depth: int, names: Sequence[str]) -> None:
    """Compare the others' first chunk with torch's, where they made one."""
    from ..checks.distance import relative_error

    paths = {name: _latents_path(settings, depth, name) for name in names}
    latents = {name: np.load(path) for name, path in paths.items() if path.is_file()}
    if "torch" not in latents:
        return
    for name in latents:
        if name != "torch":
            error = relative_error(latents[name], latents["torch"])
            record.add(f"depth {depth}, {name} against torch, relative L2 after a step", error, most=AGREEMENT)


def _latents_path(settings: Settings, depth: int, kind: str) -> Path:
    return Path(settings.work) / f"latents-{depth}-{kind}.npy"
