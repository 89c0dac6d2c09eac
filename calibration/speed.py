"""Whether a quantised precision is faster than floating point: a denoising step of both, in turn, at a full cache."""

from __future__ import annotations

import dataclasses
import logging
import platform
from collections.abc import Sequence
from pathlib import Path

from ..bundle import Bundle, Speed, open_bundle, rewrite_manifest
from ..runtime.model import Model, load
from ..runtime.profiler.compare import Side, compare, stay_open
from ..runtime.profiler.report import Ratio
from ..runtime.profiler.settings import Settings

__all__ = ["explain_slowness", "measure_speed", "time_in_turn", "timed_against"]

_log = logging.getLogger("vdmrt")
_PAIRS, _STEPS = 15, 3
# What a CPU does in well under a minute; beyond it the user asks for the time that it takes.
_QUICK_FLOPS = 2e12


def timed_against(bundle: Bundle, precision: str) -> str | None:
    """Return the precision that a quantised one must beat on a CPU; None where its products are not INT8 there.

    FP8 products are not run in 8 bits by a CPU, and what has FP16 around INT8 products is for TensorRT.
    """
    graphs = bundle.manifest.graphs
    if graphs[precision]["denoise"].quantised != "int8" or "fp16" in precision.split("-"):
        return None
    return "fp32" if "fp32" in graphs else "fp16"


def measure_speed(
    path: Path, precisions: Sequence[str], *, threads: int | None = None, accept_slower: bool = False
) -> list[Speed]:
    """Time what runs in INT8 on a CPU, and write what was found into ``model.json``.

    Args:
        path: The bundle's folder.
        precisions: Those that were made; others than INT8 ones are left out.
        threads: Of the CPU provider.
        accept_slower: What the record says of the user's will.

    Raises:
        BundleError: The bundle is altered.
        BackendError: ONNX Runtime refuses a graph.
    """
    found: list[Speed] = []
    for precision in precisions:
        bundle = open_bundle(path)
        against = timed_against(bundle, precision)
        if against is None:
            continue
        denoise = bundle.manifest.graphs[precision]["denoise"]
        if 2 * _PAIRS * _STEPS * denoise.flops > _QUICK_FLOPS:
            _log.warning("%s was not timed, which would take minutes; vdmrt profile --against does it", precision)
            continue
        with (
            load(path, backend="onnxruntime", precision=precision, threads=threads, verify=False) as model,
            load(path, backend="onnxruntime", precision=against, threads=threads, verify=False) as other,
        ):
            found.append(_record(bundle, model, other, time_in_turn(model, other), accept_slower))
        kept = tuple(one for one in bundle.manifest.speeds if one.precision != precision)
        rewrite_manifest(bundle, dataclasses.replace(bundle.manifest, speeds=(*kept, found[-1])))
    return found


def time_in_turn(model: Model, other: Model) -> Ratio:
    """Time denoising steps of two models in turn at a full cache; the ratio is the other's time over the model's."""
    g = model.manifest.geometry
    settings = Settings(
        Path(), steps=min(_STEPS, g.max_steps), warmup=-(-g.slots // g.chunk_frames), decoding="off", roofline=False
    )
    sides = [Side(settings, stay_open(one)) for one in (model, other)]
    ratios = compare(sides[0], sides[1], what=other.precision, pairs=_PAIRS).ratios
    return next(one for one in ratios if one.what == "denoising step")


def explain_slowness(speed: Speed) -> str:
    """Say in one line why a quantised precision is not faster here, and what to do."""
    why = "quantising what its linears read costs what their 8 bit products save"
    if "CPU" in speed.backend and not _has_integer_products():
        why = "this CPU has no instructions for INT8 products (VNNI, or I8MM on ARM)"
    return (
        f"{speed.precision} is not faster than {speed.against} here, {speed.ratio:.2f} times as fast "
        f"({speed.low:.2f} to {speed.high:.2f}): {why}; keep {speed.against}, or take it with --accept-slower"
    )


def _record(bundle: Bundle, model: Model, other: Model, ratio: Ratio, accepted: bool) -> Speed:
    return Speed(
        precision=model.precision,  # type: ignore[arg-type]  # a key of the manifest's graphs
        against=other.precision,  # type: ignore[arg-type]
        backend=model.backend.describe(),
        ratio=ratio.ratio,
        low=ratio.interval.low,
        high=ratio.interval.high,
        pairs=_PAIRS,
        accepted=accepted,
        graphs_sha256=bundle.manifest.graphs_sha256(model.precision),
    )


def _has_integer_products() -> bool:
    """Whether the CPU says that it multiplies INT8; taken to be so where the system does not tell."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True
    wanted = ("i8mm", "asimddp") if platform.machine() in ("aarch64", "arm64") else ("avx512_vnni", "avx_vnni")
    return any(one in told for one in wanted)
