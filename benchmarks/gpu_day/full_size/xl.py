"""The full size: TensorRT, ONNX Runtime CUDA and torch in turn, beside what the GPU reaches at best."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..running.contender import Contender
from ..running.record import Missing, Recorder
from ..running.settings import Settings
from .weights import make_weights

__all__ = ["make_weights_of", "measure_xl", "prepare_bundle"]

ROUNDS, STEPS = 10, 10
LOAD_LIMIT_S = 400
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
    modes: Sequence[str] = (),
    kinds: Sequence[str] = ("torch", "rtx", "onnxruntime", "tensorrt"),
) -> None:
    """Time the contenders that are there, in turn.

    Args:
        settings: The device, and where the bundle is.
        record: Gets the figures.
        depth: Blocks of the model.
        modes: Of torch.compile.
        kinds: The contenders.
    """
    _measure(settings, record, depth, modes, kinds, uncached="eager")


def _measure(
    settings: Settings,
    record: Recorder,
    depth: int,
    modes: Sequence[str],
    kinds: Sequence[str],
    *,
    uncached: str | None,
) -> None:
    folder = prepare_bundle(settings, depth)
    contenders: list[Contender] = []
    try:
        for kind in kinds:
            arguments = {
                "kind": kind,
                "folder": str(folder),
                "modes": list(modes),
                "uncached": uncached,
                "depth": depth,
            }
            arguments["latents"] = str(Path(settings.work) / f"latents-{depth}-{kind}.npy")
            _open(contenders, kind, settings, arguments, record, f"depth {depth}, {kind}")
        if not contenders:
            raise Missing("no contender could be loaded; see the records")
        times = _take_turns(contenders, record, 2 if settings.rehearse else ROUNDS, 2 if settings.rehearse else STEPS)
    finally:
        for contender in contenders:
            contender.close()
    notes = {key: value for contender in contenders for key, value in contender.notes.items()}
    _report(folder, depth, times, notes, record)
    _compare(settings, record, depth, [contender.name for contender in contenders])


def _open(
    contenders: list[Contender],
    kind: str,
    settings: Settings,
    arguments: dict[str, Any],
    record: Recorder,
    what: str,
) -> None:
    """Start a contender and wait until it has loaded: another's load would disturb torch's autotuning."""
    try:
        contender = Contender(kind, "main" if kind == "torch" else kind, settings, arguments)
        try:
            contender.wait(LOAD_LIMIT_S)
        except Missing:
            contender.close()
            raise
    except Missing as error:
        record.missing(what, str(error))
        return
    record.note(f"{what} is ready", **contender.notes)
    contenders.append(contender)


def _take_turns(
    contenders: Sequence[Contender], record: Recorder, rounds: int, steps: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the answers of every run, one for each round; the first round warms up and is left out."""
    times: dict[str, list[dict[str, Any]]] = {}
    lost: set[str] = set()
    for number in range(rounds + 1):
        for contender in contenders:
            for run in contender.runs:
                if run in lost:
                    continue
                try:
                    answer = contender.time(run, steps, 120)
                except Missing as error:
                    record.missing(run, str(error))
                    lost.add(run)
                    continue
                if number:
                    times.setdefault(run, []).append(answer)
    return times


def _report(
    folder: Path, depth: int, times: dict[str, list[dict[str, Any]]], notes: dict[str, Any], record: Recorder
) -> None:
    from vdmrt.bundle import open_bundle

    graph = open_bundle(folder).manifest.graphs["fp16"]["denoise"]
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
    """Hold the others' first chunk against torch's."""
    from ..checks.distance import relative_error

    def latents(name: str) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = np.load(Path(settings.work) / f"latents-{depth}-{name}.npy")
        return found

    if "torch" not in names:
        return
    for name in names:
        if name != "torch":
            error = relative_error(latents(name), latents("torch"))
            record.add(f"depth {depth}, {name} against torch, relative L2 after a step", error, most=AGREEMENT)
