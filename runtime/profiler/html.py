"""A profile as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator

from ...bundle import format_nbytes
from .charts import Bar, Series, draw_histogram, draw_lanes, draw_lines, draw_shares
from .page import Page, Table
from .recorder import Span
from .report import Comparison, Report
from .statistics import Interval, Summary

__all__ = ["render_html"]

_TONES = {
    "noise": "tone-e",
    "step": "tone-a",
    "denoise": "tone-a",
    "fill": "tone-b",
    "scatter": "tone-d",
    "host": "tone-f",
    "encode": "tone-e",
    "decode": "tone-c",
}
_NAMES = {
    "chunk": "autoregressive step",
    "step": "denoising step",
    "denoise": "all denoising steps",
    "noise": "noise",
    "fill": "cache fill",
    "scatter": "scatter",
    "encode": "encode",
    "decode": "decode",
    "host": "host overhead",
    "idle": "idle between steps",
    "enqueue": "enqueue",
    "arrival": "between chunks",
}


def render_html(report: Report) -> str:
    """Return a profile as one HTML page that needs nothing else."""
    w, e = report.workload, report.environment
    page = Page(
        f"Profile of {w.name}",
        subtitle=(
            f"{w.backend}, {w.precision}, {w.sampler}, {w.steps} denoising steps; {w.chunks} chunks of "
            f"{w.chunk_frames} latent frames, {w.warmup_chunks} of warm-up excluded; decoding {w.decoding}",
            f"{e.gpu or e.cpu}, {e.cpu_count} CPUs, vdmrt {e.vdmrt}{f' ({e.commit})' if e.commit else ''}",
            report.date,
        ),
        warnings=report.warnings,
    )
    page.add_cards(list(_cards(report)))
    if report.comparison is not None:
        page.add_section(
            f"Against {report.comparison.other}",
            _compare(report.comparison),
            text=f"{report.comparison.pairs} pairs in turn, in {report.comparison.rounds} rounds; "
            "above 1 the other takes longer.",
        )
    page.add_section(
        "Where the time of a chunk goes", _split(report), text="Mean of each stage over the measured chunks."
    )
    page.add_section(
        "Denoising step and cache fill over autoregressive steps",
        _curve(report),
        text="Flat is the aim: slots never move, and a full cache costs what an empty one does.",
    )
    if report.arrivals_ms:
        page.add_section("Time between chunks", _arrivals(report))
    page.add_section("Two chunks", _timeline(report), text="On the host's clock; decoding has a lane of its own.")
    page.add_section("Stages", _stages(report), text="Milliseconds. The interval is that of the median.")
    if report.roofline:
        page.add_section("Roofline", _roofline(report), text=_ceilings(report))
    if report.layers:
        page.add_section("Transformer blocks and operators", _groups(report, "block"), _groups(report, "operator"))
        page.add_section("Layers", _layers(report), text="From a pass of its own. Click a heading to sort.")
    page.add_section("What it ran on", _environment(report))
    return page.render()


def _cards(report: Report) -> Iterator[tuple[str, str]]:
    codec = f"{report.workload.codec} codec included" if report.workload.codec else "no codec ran"
    yield f"{report.rate.frame_fps:.4g}", f"frames/s, {codec}"
    yield f"{report.rate.latent_fps:.4g}", "latent frames/s, codec excluded"
    yield f"{report.first.warm_ms:.1f} ms", "to the first chunk, warm"
    yield f"{report.first.cold_ms:.1f} ms", "to the first chunk, cold"
    yield f"{report.stages['step'].median:.4g} ms", "denoising step, median"
    yield f"{report.stages['fill'].median:.4g} ms", "cache fill, median"
    if report.rate.attainment is not None:
        yield f"{100 * report.rate.attainment:.1f} %", f"of deadlines met at {report.rate.target_fps:g} fps"
        yield f"{report.rate.stall_ms:.1f} ms", "a player stood still"
    yield format_nbytes(report.memory.cache_nbytes), "KV cache"
    yield format_nbytes(report.memory.copied_nbytes), "of it copied per denoising step"
    if report.energy is not None:
        yield f"{report.energy.joules_per_frame:.2f} J", "a latent frame"


def _split(report: Report) -> str:
    names = ("noise", "denoise", "fill", "scatter", "host", "decode")
    chunks = report.workload.chunks
    stages = {name: report.stages[name] for name in names if name in report.stages}
    shares = {_NAMES[name]: (stage.mean * stage.count / chunks, _TONES[name]) for name, stage in stages.items()}
    return draw_shares(shares, title="time of a chunk")


def _curve(report: Report) -> str:
    full = next((point.index for point in report.curve if point.cached_frames == report.workload.slots), None)
    marks = {} if full is None else {float(full): f"cache full: {report.workload.slots} latent frames"}
    return draw_lines(
        [
            Series("denoising step, median", "tone-a", [point.step_ms for point in report.curve]),
            Series("cache fill", "tone-b", [point.fill_ms for point in report.curve]),
        ],
        x=[float(point.index) for point in report.curve],
        x_title="autoregressive step",
        y_title="milliseconds over autoregressive steps",
        marks=marks,
    )


def _arrivals(report: Report) -> str:
    arrival = report.stages["arrival"]
    marks = {arrival.median: f"median {arrival.median:.4g} ms"}
    marks |= {ms: f"{percent} % within {ms:.4g} ms" for percent, ms in list(arrival.percentiles.items())[-1:]}
    return draw_histogram(report.arrivals_ms, x_title="milliseconds between the delivery of two chunks", marks=marks)


def _timeline(report: Report) -> str:
    lanes: dict[str, list[Bar]] = {"chunk": [], "stage": [], "decode": []}
    for span in report.timeline:
        lanes["chunk" if span.stage == "chunk" else "decode" if span.stage == "decode" else "stage"].append(_bar(span))
    shown = {name: bars for name, bars in lanes.items() if bars}
    return draw_lanes(shown, x_title="milliseconds")


def _bar(span: Span) -> Bar:
    which = f" {span.step + 1}" if span.stage == "step" else ""
    title = f"{_NAMES[span.stage]}{which} of chunk {span.chunk}"
    tone = "tone-f" if span.stage == "chunk" else _TONES[span.stage]
    return Bar(span.begin_ms, span.end_ms, tone, title)


def _stages(report: Report) -> Table:
    percents = list(report.stages["step"].percentiles)
    head = ["stage", "count", "median", "interval", "mean", "min", "max", "variation %", *(f"p{p}" for p in percents)]
    rows = [_row(_NAMES[name], stage, percents) for name, stage in report.stages.items()]
    return Table(head, rows, sorts=True, name="stages")


def _row(name: str, stage: Summary, percents: list[str]) -> list[str | float | int]:
    interval = _interval(stage.interval) if stage.count > 1 else ""
    figures = [stage.mean, stage.minimum, stage.maximum, 100 * stage.variation]
    return [name, stage.count, stage.median, interval, *figures, *(stage.percentiles[p] for p in percents)]


def _interval(interval: Interval) -> str:
    return f"{interval.low:.4g} to {interval.high:.4g} ({100 * interval.confidence:.3g} %)"


def _compare(comparison: Comparison) -> Table:
    rows: list[list[str | float | int]] = [
        [
            ratio.what,
            ratio.ratio,
            _interval(ratio.interval),
            "yes" if ratio.differs else "not shown",
            ratio.this,
            ratio.other,
        ]
        for ratio in comparison.ratios
    ]
    return Table(["", "ratio", "interval", "differs", "this, ms", "other, ms"], rows, name="comparison")


def _roofline(report: Report) -> Table:
    rows: list[list[str | float | int]] = [
        [
            _NAMES[stage.stage],
            stage.flops / 1e9,
            stage.nbytes / 1e6,
            stage.intensity,
            stage.limit,
            stage.bound_ms,
            stage.measured_ms,
            100 * stage.fraction,
        ]
        for stage in report.roofline
    ]
    head = ["stage", "GFLOP", "MB", "FLOP/byte", "limited by", "at best, ms", "median, ms", "% reached"]
    return Table(head, rows, name="roofline")


def _ceilings(report: Report) -> str:
    return "" if report.ceilings is None else f"Ceilings measured in the same run: {report.ceilings.describe()}."


def _groups(report: Report, attribute: str) -> Table:
    """Sum the layers by block or by operator, both graphs side by side."""
    sums: dict[str | int, dict[str, float]] = {}
    for layer in report.layers:
        of_group = sums.setdefault(getattr(layer, attribute), {"denoise": 0.0, "fill": 0.0})
        of_group[layer.stage] += layer.milliseconds
    rows: list[list[str | float | int]] = [
        ["outside" if name == -1 else name, times["denoise"], times["fill"]] for name, times in sums.items()
    ]
    rows.sort(key=lambda row: -float(row[1]))
    return Table([attribute, "denoise, ms", "fill, ms"], rows, sorts=True, name=f"{attribute}s")


def _layers(report: Report) -> Table:
    rows: list[list[str | float | int]] = [
        [layer.name, layer.milliseconds, 100 * layer.share, layer.operator, layer.stage, layer.block]
        for layer in sorted(report.layers, key=lambda layer: -layer.milliseconds)
    ]
    return Table(["layer", "ms", "% of graph", "operator", "graph", "block"], rows, sorts=True, name="layers")


def _environment(report: Report) -> Table:
    e, w, m = report.environment, report.workload, report.memory
    rows = [
        ["device", f"{e.gpu or e.cpu} ({e.device}{f', driver {e.driver}' if e.driver else ''})"],
        ["platform", f"{e.platform}, Python {e.python}"],
        ["packages", ", ".join(f"{name} {version}" for name, version in e.packages.items())],
        ["bundle", w.bundle],
        ["device memory without programs", "unknown" if m.device_nbytes is None else format_nbytes(m.device_nbytes)],
        ["in use on the whole GPU", "no GPU" if m.device_used_nbytes is None else format_nbytes(m.device_used_nbytes)],
        ["host memory, peak", format_nbytes(m.host_peak_nbytes)],
        ["moved per autoregressive step", format_nbytes(m.scatter_nbytes)],
        ["measured", f"{report.rate.wall_ms / 1e3:.3g} s, of which stages cover {100 * report.rate.covered:.2f} %"],
    ]
    rows += [["note", note] for note in report.notes]
    return Table(["", ""], rows, words=True, name="environment")
