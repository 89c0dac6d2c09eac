"""Rendering of a report as text: trtexec's summary, then lines for video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...bundle import Stage, format_count, format_flops, format_nbytes

if TYPE_CHECKING:
    from ..analysis.statistics import Summary
    from .report import Comparison, Report

__all__ = ["describe_comparison", "describe_report"]

_STAGES = (
    ("encode", "Encode"),
    ("noise", "Noise"),
    ("step", "Denoising Step"),
    ("idle", "Idle Between Steps"),
    (Stage.FILL, "Cache Fill"),
    ("scatter", "Scatter"),
    ("decode", "Decode"),
    ("host", "Host Overhead"),
)


def describe_report(report: Report) -> str:
    """Return the report as lines of text."""
    return "\n".join([*_head(report), *_block(report), *_video(report), *_tail(report)])


def describe_comparison(comparison: Comparison) -> list[str]:
    """Return a comparison as lines of text."""
    lines = [
        f"Against {comparison.other}, {comparison.pairs} pairs of alternating chunks, in {comparison.rounds} rounds:"
    ]
    for ratio in comparison.ratios:
        lines.append(
            f"  {ratio.what}: {ratio.this:.3f} ms, other {ratio.other:.3f} ms, ratio {ratio.ratio:.3f}; "
            f"{ratio.describe()}"
        )
    return lines


def _head(report: Report) -> Iterator[str]:
    w, e = report.workload, report.environment
    yield f"{w.name} ({w.bundle}): {w.backend}, {w.precision}, {w.sampler}, {format_count(w.steps, 'step')}"
    yield f"{e.gpu or e.cpu}, {e.cpu_count} CPUs, vdmrt {e.vdmrt}{f' ({e.commit})' if e.commit else ''}"
    yield (
        f"{format_count(w.chunks, 'chunk')} of {format_count(w.chunk_frames, 'latent frame')}, "
        f"{format_count(w.warmup_chunks, 'chunk')} of warm-up excluded, "
        f"decoding {w.decoding}"
    )
    yield ""


def _block(report: Report) -> Iterator[str]:
    stages = report.stages
    yield "=== Performance summary ==="
    chunks_per_second = report.workload.chunks / report.rate.wall_ms * 1e3
    yield f"Throughput: {chunks_per_second:.4g} chunks/s, {report.rate.frame_fps:.4g} frames/s"
    yield f"Latency: {_figures(stages['chunk'])}"
    if "enqueue" in stages:
        yield f"Enqueue Time: {_figures(stages['enqueue'])}"
    yield f"Compute Time: {_figures(stages[Stage.DENOISE])}"
    yield f"Total Host Walltime: {report.rate.wall_ms / 1e3:.4g} s"
    yield f"Total Compute Time: {stages[Stage.DENOISE].mean * stages[Stage.DENOISE].count / 1e3:.4g} s"
    yield ""


def _video(report: Report) -> Iterator[str]:
    stages, first, rate, memory = report.stages, report.first, report.rate, report.memory
    yield "=== Video ==="
    loaded = f", with loading {first.cold_with_load_ms:.1f} ms" if first.cold_with_load_ms is not None else ""
    yield f"Time To First Frame: warm {first.warm_ms:.1f} ms, cold {first.cold_ms:.1f} ms{loaded}"
    for name, title in _STAGES:
        if name in stages:
            yield f"{title}: {_figures(stages[name])}"
    if "arrival" in stages:
        yield f"Chunk Inter-Arrival: {_figures(stages['arrival'])}"
    yield from _curve(report)
    codec = f"with the {report.workload.codec} codec" if report.workload.codec else "codec excluded"
    yield f"Frames Per Second: {rate.frame_fps:.4g} {codec}, {rate.latent_fps:.4g} without it"
    if rate.target_fps is not None and rate.attainment is not None:
        yield (
            f"At {rate.target_fps:g} fps: real-time factor {rate.real_time_factor:.3f} (below 1 keeps up), "
            f"{100 * rate.attainment:.1f}% of deadlines met, {rate.stall_ms:.1f} ms stalled"
        )
    yield (
        f"KV Cache: {format_nbytes(memory.cache_nbytes)}; moved per autoregressive step "
        f"{format_nbytes(memory.scatter_nbytes)}, copied per denoising step {format_nbytes(memory.copied_nbytes)}"
    )
    device = f"device {format_nbytes(memory.device_nbytes)} without programs, " if memory.device_nbytes else ""
    if memory.device_used_nbytes is not None:
        device += f"whole GPU {format_nbytes(memory.device_used_nbytes)}, "
    yield f"Memory: {device}host peak {format_nbytes(memory.host_peak_nbytes)}"


def _curve(report: Report) -> Iterator[str]:
    first, last = report.curve[0], report.curve[-1]
    if len(report.curve) > 1:
        yield (
            f"Autoregressive Steps: denoising step {first.step_ms:.3f} ms with {first.cached_frames} latent frames "
            f"in the cache, {last.step_ms:.3f} ms with {last.cached_frames} (of {report.workload.slots})"
        )


def _tail(report: Report) -> Iterator[str]:
    energy = report.energy
    if energy is not None:
        held = f", clocks reduced: {', '.join(energy.throttled)}" if energy.throttled else ""
        yield (
            f"Energy: {energy.joules:.1f} J, {energy.joules_per_frame:.2f} J a latent frame, {energy.watts:.0f} W; "
            f"SM clock {energy.clock_mhz} MHz, memory clock {energy.memory_clock_mhz} MHz, "
            f"{energy.temperature_c} °C{held}"
        )
    if report.ceilings is not None:
        yield f"Ceilings: {report.ceilings.describe()}"
        for stage in report.roofline:
            yield (
                f"Roofline {stage.stage}: {format_flops(stage.flops)}, {format_nbytes(stage.nbytes)}, at best "
                f"{stage.bound_ms:.3f} ms ({stage.limit}), {100 * stage.fraction:.1f}% reached"
            )
    if report.layers:
        yield from _blocks(report)
    if report.comparison is not None:
        yield ""
        yield from describe_comparison(report.comparison)
    yield ""
    yield from (f"[W] {warning}" for warning in report.warnings)
    yield from (f"[I] {note}" for note in report.notes)


def _blocks(report: Report) -> Iterator[str]:
    """Yield the time of each transformer block, and of each operator, in the denoise graph."""
    blocks: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    for layer in report.layers:
        if layer.stage == Stage.DENOISE:
            blocks["outside" if layer.block < 0 else str(layer.block)] += layer.share  # type: ignore[assignment]
            operators[layer.operator] += layer.share  # type: ignore[assignment]
    yield f"Blocks of denoise: {', '.join(f'{name} {100 * share:.1f}%' for name, share in sorted(blocks.items()))}"
    most = ", ".join(f"{name} {100 * share:.1f}%" for name, share in operators.most_common(8))
    yield f"Operators of denoise: {most}"


def _figures(summary: Summary) -> str:
    percentiles = "".join(f", percentile({percent}%) = {ms:.6g} ms" for percent, ms in summary.percentiles.items())
    return (
        f"min = {summary.minimum:.6g} ms, max = {summary.maximum:.6g} ms, mean = {summary.mean:.6g} ms, "
        f"median = {summary.median:.6g} ms{percentiles}"
    )
