"""Rendering of a profile as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...bundle import Stage, format_count, format_nbytes
from ...reporting import (
    Bar,
    Headline,
    Page,
    Series,
    Table,
    Timeline,
    draw_histogram,
    draw_lines,
    draw_shares,
    judge_figures,
    tabulate_figures,
)

if TYPE_CHECKING:
    from ...reporting import (
        Cell,
        Chart,
        Figure,
    )
    from ..analysis.statistics import Interval, Summary
    from ..measuring.recorder import Span
    from .report import Comparison, Rate, Report

__all__ = ["render_html"]

_LONGEST_NAME = 48  # characters of a layer's name in the table
_TONES = {
    "noise": "tone-e",
    "step": "tone-a",
    Stage.DENOISE: "tone-a",
    Stage.FILL: "tone-b",
    "scatter": "tone-d",
    "host": "tone-f",
    "encode": "tone-e",
    "decode": "tone-c",
}
_NAMES = {
    "chunk": "autoregressive step",
    "step": "denoising step",
    Stage.DENOISE: "all denoising steps",
    "noise": "noise",
    Stage.FILL: "cache fill",
    "scatter": "scatter",
    "encode": "encode",
    "decode": "decode",
    "host": "host overhead",
    "idle": "idle between steps",
    "enqueue": "enqueue",
    "arrival": "between chunks",
}

_KEEPS_UP = {True: "Keeps up with", False: "Does not keep up with", None: "Not shown to keep up with"}


def render_html(report: Report, gates: Sequence[Figure] = ()) -> str:
    """Return a profile as one self-contained HTML page.

    Args:
        report: The profile.
        gates: Gates and their results; see :func:`.gates.judge_gates`.
    """
    page = Page(
        f"Profile of {report.workload.name}",
        subtitle=list(_subtitle(report)),
        verdict=_judge(report, gates),
        warnings=report.warnings,
    )
    if gates:
        page.add_section("Limits", tabulate_figures(gates))
    page.add_cards(list(_cards(report)))
    if report.comparison is not None:
        text = f"{report.comparison.pairs} pairs of alternating chunks, in {report.comparison.rounds} rounds. "
        text += "The ratio is the other's time over this one's."
        page.add_section(f"Against {report.comparison.other}", _compare(report.comparison), text=text)
    page.add_section(
        "Stages", _split(report), _stages(report), text="The interval is the confidence interval of the median."
    )
    page.add_section(
        "Over autoregressive steps",
        _curve(report),
        *([_arrivals(report)] if report.arrivals_ms else []),
        text="The curve should be flat: slots never move, and a full cache takes as long as an empty one.",
    )
    page.add_section("Two chunks", _timeline(report), text="On the host's clock; decoding is on a separate lane.")
    if report.roofline:
        page.add_section("Roofline", _roofline(report), text=_ceilings(report))
    if report.layers:
        page.add_section("Transformer blocks and operators", _groups(report, "block"), _groups(report, "operator"))
        page.add_section("Layers", _layers(report), text="From a separate pass. Click a heading to sort.")
    page.add_section("Environment", _environment(report))
    return page.render()


def _subtitle(report: Report) -> Iterator[str]:
    w, e = report.workload, report.environment
    yield (
        f"{w.backend}, {w.precision}, {w.sampler}, {format_count(w.steps, 'denoising step')}; "
        f"{format_count(w.chunks, 'chunk')} of {format_count(w.chunk_frames, 'latent frame')}, "
        f"{w.warmup_chunks} of warm-up excluded; decoding {w.decoding}"
    )
    yield f"{e.gpu or e.cpu}, {format_count(e.cpu_count, 'CPU')}, vdmrt {e.vdmrt}{f' ({e.commit})' if e.commit else ''}"
    yield report.date


def _judge(report: Report, gates: Sequence[Figure]) -> Headline:
    """Return the headline: the gates if any, otherwise whether the target rate is met, otherwise the rate."""
    chunk = report.stages.get("arrival", report.stages["chunk"])
    spread = f" (median; interval {_interval(chunk.interval)})" if chunk.count > 1 else ""
    details = [f"A chunk takes {chunk.median:.4g} ms{spread}, a denoising step {report.stages['step'].median:.4g} ms."]
    if report.rate.target_fps is not None:
        details.append(_describe_target(report.rate))
    if report.comparison is not None:
        first = report.comparison.ratios[0]
        details.append(f"Against {report.comparison.other}, {first.what}: {first.describe()}.")
    if gates:
        verdict = judge_figures(gates)
        return Headline(verdict.headline, verdict.passed, [*verdict.details, *details])
    if report.rate.target_fps is not None:
        keeps_up = _keeps_up(chunk.interval, report.workload.chunk_frames / report.rate.target_fps * 1e3)
        return Headline(f"{_KEEPS_UP[keeps_up]} {report.rate.target_fps:g} frames/s", keeps_up, details)
    return Headline(f"{report.rate.frame_fps:.4g} frames/s", None, details)


def _keeps_up(chunk: Interval, playing_ms: float) -> bool | None:
    """Return whether chunks are made faster than they play; None where the interval contains both."""
    if chunk.high <= playing_ms:
        return True
    return False if chunk.low > playing_ms else None


def _describe_target(rate: Rate) -> str:
    return (
        f"At {rate.target_fps:g} frames/s a chunk takes {rate.real_time_factor:.3f} of its playing time; "
        f"{100 * (rate.attainment or 0):.1f} % of chunks arrived in time, a player would stall for "
        f"{rate.stall_ms or 0:.1f} ms."
    )


def _cards(report: Report) -> Iterator[tuple[str, str]]:
    codec = f"{report.workload.codec} codec included" if report.workload.codec else "no codec ran"
    yield f"{report.rate.frame_fps:.4g}", f"frames/s, {codec}"
    yield f"{report.rate.latent_fps:.4g}", "latent frames/s, codec excluded"
    yield f"{report.first.warm_ms:.1f} ms", "to the first chunk, warm"
    yield f"{report.first.cold_ms:.1f} ms", "to the first chunk, cold"
    yield f"{report.stages['step'].median:.4g} ms", "denoising step, median"
    yield f"{report.stages[Stage.FILL].median:.4g} ms", "cache fill, median"
    if report.rate.attainment is not None:
        yield f"{100 * report.rate.attainment:.1f} %", f"of deadlines met at {report.rate.target_fps:g} fps"
        yield f"{report.rate.stall_ms:.1f} ms", "stall of a player"
    yield format_nbytes(report.memory.cache_nbytes), "KV cache"
    yield format_nbytes(report.memory.copied_nbytes), "of the cache copied per denoising step"
    if report.energy is not None:
        yield f"{report.energy.joules_per_frame:.2f} J", "a latent frame"


def _split(report: Report) -> Chart:
    names = ("noise", Stage.DENOISE, Stage.FILL, "scatter", "host", "decode")
    chunks = report.workload.chunks
    stages = {name: report.stages[name] for name in names if name in report.stages}
    shares = {_NAMES[name]: (stage.mean * stage.count / chunks, _TONES[name]) for name, stage in stages.items()}
    return draw_shares(shares, title="Where the time of a chunk goes, mean over the measured chunks", unit="ms")


def _curve(report: Report) -> Chart:
    full = next((point.index for point in report.curve if point.cached_frames == report.workload.slots), None)
    marks = {} if full is None else {float(full): f"cache full: {report.workload.slots} latent frames"}
    return draw_lines(
        [
            Series("denoising step, median", "tone-a", [point.step_ms for point in report.curve]),
            Series("cache fill", "tone-b", [point.fill_ms for point in report.curve]),
        ],
        x=[float(point.index) for point in report.curve],
        title="Denoising step and cache fill, ms",
        x_title="autoregressive step",
        marks=marks,
    )


def _arrivals(report: Report) -> Chart:
    arrival = report.stages["arrival"]
    marks = {arrival.median: f"median {arrival.median:.4g} ms"}
    marks |= {ms: f"{percent} % within {ms:.4g} ms" for percent, ms in list(arrival.percentiles.items())[-1:]}
    return draw_histogram(report.arrivals_ms, title="Time between chunks, count", x_title="ms", marks=marks)


def _timeline(report: Report) -> Timeline:
    lanes: dict[str, list[Bar]] = {"chunk": [], "stage": [], "decode": []}
    for span in report.timeline:
        lanes["chunk" if span.stage == "chunk" else "decode" if span.stage == "decode" else "stage"].append(_bar(span))
    shown = {name: bars for name, bars in lanes.items() if bars}
    # A color may stand for several stages, such as all denoising steps and each.
    stages = dict.fromkeys(span.stage for span in report.timeline)
    legend = {_tone(stage): _NAMES[stage] for stage in stages if stage != "chunk"}
    return Timeline("Stages of two neighboring chunks", "ms", shown, tuple(legend.items()))


def _bar(span: Span) -> Bar:
    which = f" {span.step + 1}" if span.stage == "step" else ""
    title = f"{_NAMES[span.stage]}{which} of chunk {span.chunk}"
    return Bar(span.begin_ms, span.end_ms, _tone(span.stage), title)


def _tone(stage: str) -> str:
    return _TONES.get(stage, "tone-f")


def _stages(report: Report) -> Table:
    percents = list(report.stages["step"].percentiles)
    head = [
        "stage, ms",
        "count",
        "median",
        *(f"p{p}" for p in percents),
        "min",
        "max",
        "mean",
        "variation, %",
        "interval",
    ]
    rows = [_row(_NAMES[name], stage, percents) for name, stage in report.stages.items()]
    return Table(head, rows, sorts=True, name="stages", title="Stages, milliseconds")


def _row(name: str, stage: Summary, percents: list[str]) -> list[Cell]:
    figures = [stage.minimum, stage.maximum, stage.mean, 100 * stage.variation]
    interval = _interval(stage.interval) if stage.count > 1 else ""
    return [name, stage.count, stage.median, *(stage.percentiles[p] for p in percents), *figures, interval]


def _interval(interval: Interval) -> str:
    return f"{interval.low:.4g} to {interval.high:.4g}, {100 * interval.confidence:.3g} %"


def _compare(comparison: Comparison) -> Table:
    rows: list[list[Cell]] = [
        [ratio.what, ratio.this, ratio.other, ratio.ratio, _interval(ratio.interval), ratio.verdict]
        for ratio in comparison.ratios
    ]
    head = ["of", "this, ms", "other, ms", "ratio", "interval of the ratio", "verdict"]
    return Table(head, rows, name="comparison", title=f"Against {comparison.other}")


def _roofline(report: Report) -> Table:
    rows: list[list[Cell]] = [
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
    return Table(head, rows, name="roofline", title="Roofline")


def _ceilings(report: Report) -> str:
    return "" if report.ceilings is None else f"Ceilings measured in the same run: {report.ceilings.describe()}."


def _groups(report: Report, attribute: str) -> Table:
    """Return the sums of layers by block or by operator, a column for each graph."""
    sums: dict[str | int, dict[str, float]] = {}
    for layer in report.layers:
        of_group = sums.setdefault(getattr(layer, attribute), {Stage.DENOISE: 0.0, Stage.FILL: 0.0})
        of_group[layer.stage] += layer.milliseconds
    rows: list[list[Cell]] = [
        ["outside" if name == -1 else name, times[Stage.DENOISE], times[Stage.FILL]] for name, times in sums.items()
    ]
    rows.sort(key=lambda row: -float(row[1] or 0))
    head = [attribute, "denoise, ms", "fill, ms"]
    return Table(head, rows, sorts=True, is_wide=False, name=f"{attribute}s", title=f"Time by {attribute}")


def _shorten(name: str) -> str:
    """Return a name that leaves the other columns on the page; the JSON report has it whole."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]}…{name[-_LONGEST_NAME // 2 + 1 :]}"


def _layers(report: Report) -> Table:
    rows: list[list[Cell]] = [
        [_shorten(layer.name), layer.milliseconds, 100 * layer.share, layer.operator, layer.stage, layer.block]
        for layer in sorted(report.layers, key=lambda layer: -layer.milliseconds)
    ]
    return Table(["layer", "ms", "% of graph", "operator", "graph", "block"], rows, sorts=True, name="layers")


def _environment(report: Report) -> Table:
    e, w, m = report.environment, report.workload, report.memory
    rows: list[list[Cell]] = [
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
    rows.extend(["note", note] for note in report.notes)
    return Table(["", ""], rows, words=True, name="environment")
