"""The command ``vdmrt profile``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..bundle import write_file
from ..console.parameters import Number, Numbers, OutputFile
from ..console.sections import SectionedCommand
from ..errors import ReportError
from ..runtime._options_cli import load_options, sampling_options, seed_option
from .measuring.settings import DECODING

__all__ = ["profile"]

_MISSED = 3
_log = logging.getLogger("vdmrt")


@click.command(cls=SectionedCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--chunks",
    type=click.IntRange(1),
    help="Autoregressive steps, at least.  [default: past a full cache, 10 or more]",
)
@click.option("--duration", type=Number(above=0), metavar="SECONDS", help="Seconds to measure, at least.")
@click.option(
    "--warmup",
    default=2,
    show_default=True,
    type=click.IntRange(0),
    help="Chunks made first and not counted, after a cold one.",
)
@click.option(
    "--decoding",
    type=click.Choice(DECODING),
    default="serial",
    show_default=True,
    help="After each chunk, overlapped with the next one, or off.",
)
@click.option("--target-fps", type=Number(above=0), metavar="FPS", help="Frames a second wanted; judges deadlines.")
@click.option(
    "--percentile",
    "percentiles",
    type=Numbers(Number(above=0, high=100)),
    default="90,95,99",
    show_default=True,
    help="Percentiles, in percent, between commas.",
)
@seed_option(0, "Seed of the noise and of the frames to go on from.")
@click.option("--trace", "trace_file", type=OutputFile(), help="Write a trace for ui.perfetto.dev or chrome://tracing.")
@click.option(
    "--against",
    metavar="OTHER",
    help="Compare in turn: another bundle, or options of sampling and of what runs it, as precision=int8,engine=off.",
)
@click.option("--layers", is_flag=True, help="Time every layer of the graphs, in a pass of its own.")
@click.option("--nvtx", is_flag=True, help="Mark the stages for Nsight Systems: nsys profile vdmrt profile ...")
@click.option("--roofline/--no-roofline", default=True, help="Measure the device's ceilings.  [default: roofline]")
@click.option(
    "--fail-above",
    type=Number(above=0),
    metavar="MS",
    help="Exit 3 if the median chunk takes more milliseconds, codec included.",
)
@click.option(
    "--fail-below", type=Number(above=0), metavar="FPS", help="Exit 3 if fewer frames a second come, codec included."
)
@click.option("--json", "json_file", type=OutputFile(), help="Write the report as JSON.")
@click.option("--html", "html_file", type=OutputFile(), help="Write the report as one HTML page.")
@sampling_options
@load_options
def profile(
    bundle: Path,
    against: str | None,
    fail_above: float | None,
    fail_below: float | None,
    json_file: Path | None,
    html_file: Path | None,
    trace_file: Path | None,
    **given: Any,
) -> None:
    """Measure BUNDLE: first frame, stages, rates, deadlines, memory.

    Medians come first, warm-up is excluded and said, and a figure that cannot be trusted says why. With --fail-above or
    --fail-below it gates a CI job. Files that are written replace those of an earlier run.
    """
    from .analysis.gates import judge_gates
    from .layers.trace import render_trace
    from .measuring.profile import profile as measure
    from .measuring.settings import Settings
    from .report.html import render_html
    from .report.text import describe_report

    files = [path.resolve() for path in (json_file, html_file, trace_file) if path is not None]
    if len(set(files)) < len(files):
        raise click.UsageError("--json, --html and --trace must be different files")
    report = measure(Settings(bundle=bundle, **given), against=against, say=_log.info)
    gates = judge_gates(report, fail_above=fail_above, fail_below=fail_below)
    missed = [gate for gate in gates if not gate.passed]
    # The files first, because whoever reads stdout may have closed it; the figures also where a file cannot be written.
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
