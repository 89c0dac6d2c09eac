"""The command ``vdmrt profile``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import click

from ..bundle import write_file
from ..console.options import Option, gather, options_of
from ..console.parameters import Number, Numbers, OutputFile
from ..console.sections import SectionedCommand
from ..errors import ReportError
from ..runtime._options_cli import SEED, load_options, sampling_options
from .measuring.settings import DECODING, Settings

__all__ = ["profile"]

_MISSED = 3
_log = logging.getLogger("vdmrt")


@click.command(cls=SectionedCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@options_of(
    Settings,
    chunks=Option("Least number of autoregressive steps.  [default: past a full cache, 10 or more]", click.IntRange(1)),
    duration=Option("Least number of seconds to measure.", Number(above=0), metavar="SECONDS"),
    warmup=Option("Warm-up chunks, not counted, after a cold one.", click.IntRange(0)),
    decoding=Option("Decode after each chunk, overlapped with the next one, or not.", click.Choice(DECODING)),
    target_fps=Option("Target rate in frames a second, for deadlines.", Number(above=0), metavar="FPS"),
    percentiles=Option(
        "Percentiles in percent, separated by commas.", Numbers(Number(above=0, high=100)), names=("--percentile",)
    ),
    seed=Option("Seed of the noise and of the given frames.", SEED),
)
@click.option("--trace", "trace_file", type=OutputFile(), help="Write a trace for ui.perfetto.dev or chrome://tracing.")
@click.option(
    "--against",
    metavar="OTHER",
    help="Compare, in alternation, with another bundle, or with other options such as precision=int8,engine=off.",
)
@options_of(
    Settings,
    layers=Option("Time every layer of the graphs, in a separate pass."),
    nvtx=Option("Mark the stages for Nsight Systems: nsys profile vdmrt profile ..."),
    roofline=Option("Measure the device's ceilings.  [default: roofline]"),
)
@click.option(
    "--fail-above",
    type=Number(above=0),
    metavar="MS",
    help="Exit 3 if the median chunk takes more milliseconds, codec included.",
)
@click.option(
    "--fail-below",
    type=Number(above=0),
    metavar="FPS",
    help="Exit 3 if the rate is lower, in frames a second, codec included.",
)
@click.option("--json", "json_file", type=OutputFile(), help="Write the report as JSON.")
@click.option("--html", "html_file", type=OutputFile(), help="Write the report as one HTML page.")
@sampling_options
@load_options
@gather("settings", Settings)
def profile(
    settings: Settings,
    against: str | None,
    fail_above: float | None,
    fail_below: float | None,
    json_file: Path | None,
    html_file: Path | None,
    trace_file: Path | None,
) -> None:
    """Measure BUNDLE: first frame, stages, rates, deadlines, memory.

    Medians come first, warm-up is excluded, and warnings name doubtful figures. With --fail-above or --fail-below it
    gates a CI job. Files replace those of an earlier run.
    """
    from .analysis.gates import judge_gates
    from .layers.trace import render_trace
    from .measuring.profile import profile as measure
    from .report.html import render_html
    from .report.text import describe_report

    files = [path.resolve() for path in (json_file, html_file, trace_file) if path is not None]
    if len(set(files)) < len(files):
        raise click.UsageError("--json, --html and --trace must be different files")
    report = measure(settings, against=against, say=_log.info)
    gates = judge_gates(report, fail_above=fail_above, fail_below=fail_below)
    missed = [gate for gate in gates if not gate.passed]
    # The files first, because the reader may have closed stdout; the figures also where a file cannot be written.
    try:
        _write(json_file, report.to_json)
        _write(html_file, lambda: render_html(report, gates))
        _write(trace_file, lambda: render_trace(report))
    finally:
        click.echo(describe_report(report))
        for gate in missed:
            click.echo(f"Missed: {gate.describe()} ({gate.meaning})", err=True)
    if missed:
        sys.exit(_MISSED)


def _write(path: Path | None, make: Callable[[], str]) -> None:
    if path is not None:
        write_file(path, make(), fail=ReportError)
        _log.info("wrote %s", path)
