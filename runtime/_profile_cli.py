"""The command ``vdmrt profile``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..bundle.files import write_file
from ..console.parameters import OutputFile
from ..errors import VdmrtError

__all__ = ["profile"]

_MISSED = 3
_log = logging.getLogger("vdmrt")


def _split_numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    """Read numbers between commas, as trtexec takes them."""
    try:
        return tuple(float(number) for number in value.split(","))
    except ValueError:
        raise click.BadParameter(f"wanted numbers between commas, such as 90,95,99, got {value!r}") from None


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", default="auto", show_default=True, help="auto, onnxruntime or tensorrt.")
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16"]), help="Of the graphs.  [default: fp32 where the bundle has it]"
)
@click.option("--threads", type=int, help="Threads of the CPU provider.  [default: one for each CPU]")
@click.option("--chunks", type=int, help="Autoregressive steps, at least.  [default: past a full cache, 10 or more]")
@click.option("--duration", type=float, help="Seconds to measure, at least.")
@click.option("--steps", type=int, help="Denoising steps.  [default: the bundle's]")
@click.option("--sampler", help="iddpm, ddpm, ddim, dpm-solver++ or flow-euler.  [default: the bundle's]")
@click.option("--warmup", default=2, show_default=True, help="Chunks made first and not counted, after a cold one.")
@click.option("--decoding", default="serial", show_default=True, help="serial, overlapped with the next chunk, or off.")
@click.option("--target-fps", type=float, help="Frames a second that are wanted; judges deadlines.")
@click.option(
    "--percentile",
    "percentiles",
    callback=_split_numbers,
    default="90,95,99",
    show_default=True,
    help="Percentiles, in percent.",
)
@click.option("--seed", default=0, show_default=True, help="Of the noise and of the frames to go on from.")
@click.option("--trace", "trace_file", type=OutputFile(), help="Write a trace for ui.perfetto.dev or chrome://tracing.")
@click.option("--against", help="Compare in turn: another bundle, or settings such as precision=fp16,steps=4.")
@click.option("--layers", is_flag=True, help="Time every layer of the graphs, in a pass of its own.")
@click.option("--nvtx", is_flag=True, help="Mark the stages for Nsight Systems: nsys profile vdmrt profile ...")
@click.option("--roofline/--no-roofline", default=True, help="Measure the device's ceilings.  [default: roofline]")
@click.option("--fail-above", type=float, metavar="MS", help="Exit 3 if the median chunk takes longer, codec included.")
@click.option("--fail-below", type=float, metavar="FPS", help="Exit 3 if fewer frames a second come, codec included.")
@click.option("--json", "json_file", type=OutputFile(), help="Write the report as JSON.")
@click.option("--html", "html_file", type=OutputFile(), help="Write the report as one HTML page.")
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
    --fail-below it gates a CI job.
    """
    from .profiler import Settings
    from .profiler import profile as measure
    from .profiler.gates import judge_gates
    from .profiler.html import render_html
    from .profiler.text import describe_report
    from .profiler.trace import render_trace

    report = measure(Settings(bundle=bundle, **given), against=against, say=_log.info)
    gates = judge_gates(report, fail_above=fail_above, fail_below=fail_below)
    click.echo(describe_report(report))
    _write(json_file, report.to_json)
    _write(html_file, lambda: render_html(report, gates))
    _write(trace_file, lambda: render_trace(report))
    missed = [gate for gate in gates if not gate.passed]
    for gate in missed:
        click.echo(f"Missed: {gate.describe()} ({gate.meaning})", err=True)
    if missed:
        sys.exit(_MISSED)


def _write(path: Path | None, make: Callable[[], str]) -> None:
    if path is not None:
        write_file(path, make(), fail=VdmrtError)
        _log.info("wrote %s", path)
