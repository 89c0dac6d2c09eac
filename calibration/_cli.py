"""The commands ``vdmrt calibrate`` and ``vdmrt verify``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..console.parameters import Number, OutputFile
from ..console.sections import SectionedCommand
from ..console.signals import Terminated
from ..errors import CalibrationError, NotFasterError
from ..runtime._options_cli import (
    precision_option,
    sampling_options,
    seed_option,
    threads_option,
)

if TYPE_CHECKING:
    from .choose.bisection import Bisection
    from .verify.verification import Verdict, VerifyRequest

__all__ = ["calibrate", "verify"]

_GATE_MISSED = 3


@click.command(cls=SectionedCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Clips or latents: a file, or a folder of them.")
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp8", "none", "fp16"]),
    default="int8",
    show_default=True,
    help="Of the blocks' linears; none for the cache alone; fp16 for FP16 with some layers in float32.",
)
@click.option(
    "--samples",
    default=96,
    show_default=True,
    type=click.IntRange(1),
    help="Denoising runs to observe at least, in whole rollouts.",
)
@click.option(
    "--method",
    type=click.Choice(["max", "percentile", "mse", "entropy"]),
    default="mse",
    show_default=True,
    help="How ranges are chosen.",
)
@click.option(
    "--rounding",
    type=click.Choice(["gptq", "nearest"]),
    default="gptq",
    show_default=True,
    help="Of weights: GPTQ makes up for the error of each in those that follow.",
)
@click.option(
    "--smooth",
    default=0.5,
    show_default=True,
    type=Number(0, 1),
    metavar="ALPHA",
    help="Of SmoothQuant, 0 to 1; 0 for none.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN",
    help="What stays in floating point, of fp16 in float32; repeatable.",
)
@click.option(
    "--keep-fill", is_flag=True, help="Leave the cache fill in floating point: a little slower and a little nearer."
)
@click.option(
    "--budget",
    type=Number(above=0),
    metavar="DB",
    help="Keep the most sensitive groups in floating point until PSNR is so high, in dB.",
)
@click.option("--kv", type=click.Choice(["int8", "fp8"]), help="Quantize the cache too; int8 costs less accuracy.")
@seed_option(0, "Seed of all noise and choices.")
@click.option(
    "--observations",
    type=click.Path(path_type=Path),
    help="Folder that keeps what was observed, for further calibrations on the same data.",
)
@click.option("--accept-slower", is_flag=True, help="Add INT8 graphs that are not shown to be faster too.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@sampling_options
@threads_option
def calibrate(bundle: Path, as_json: bool, accept_slower: bool, **given: Any) -> None:
    """Observe real rollouts of BUNDLE and add graphs of lower precision to it.

    int8 adds "int8" (float32 around it: ONNX Runtime, TensorRT 8.5) and, where the bundle has FP16 graphs,
    "int8-fp16" (TensorRT 10 and 11); fp8 adds "fp8". A run that was stopped goes on where it was. INT8 is timed against
    floating point on this CPU before it is added; exit status 3 where it is not shown to be faster. fp16 observes
    nothing: it adds "fp16-mixed", the FP16 graphs with what --keep names in float32.
    """
    if given["precision"] == "fp16":
        _mix(bundle, given["keep"], as_json)
        return
    if given["data"] is None:
        raise click.UsageError(f"--precision {given['precision']} observes rollouts: give it clips with --data")
    from ..console.progress import show_progress
    from .calibrating import CalibrationRequest
    from .calibrating import calibrate as run
    from .choose.speed import Judge

    judge = Judge(given["threads"], accept_slower, show_progress)
    try:
        summary = run(CalibrationRequest(bundle=bundle, **given), judge=judge, show=show_progress)
    except NotFasterError as error:
        if as_json:
            speeds = [dataclasses.asdict(one) for one in error.speeds]
            click.echo(json.dumps({"bundle": str(bundle), "precisions": [], "speeds": speeds}, indent=1))
        click.echo(f"Error: {error}", err=True)
        sys.exit(_GATE_MISSED)
    click.echo(json.dumps(dataclasses.asdict(summary), indent=1) if as_json else summary.describe())


def _mix(bundle: Path, keep: tuple[str, ...], as_json: bool) -> None:
    """Keep layers of the FP16 graphs in float32."""
    from .graph.mixed import MixedRequest, mix_precisions

    context = click.get_current_context()
    taken = ("bundle", "precision", "keep", "as_json")
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    for name in sorted(set(given) - set(taken)):
        option = f"--{name.replace('_', '-')}"
        raise click.UsageError(f"--precision fp16 observes nothing: beside --keep it takes no {option}")
    if not keep:
        raise click.UsageError("--precision fp16 wants the layers that are computed in float32: name them with --keep")
    summary = mix_precisions(MixedRequest(bundle, keep))
    click.echo(json.dumps(dataclasses.asdict(summary), indent=1) if as_json else summary.describe())


@click.command(cls=SectionedCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@precision_option("What is measured.  [default: the last that the bundle got]")
@click.option("--against", default="fp32", show_default=True, help="fp32, or another bundle.")
@click.option("--data", type=click.Path(path_type=Path), help="Clips or latents to go on from.  [default: noise]")
@click.option("--chunks", default=20, show_default=True, type=click.IntRange(1), help="Autoregressive steps.")
@click.option("--seeds", default=4, show_default=True, type=click.IntRange(1), help="Rollouts, each with its own seed.")
@click.option(
    "--gate",
    "gates",
    multiple=True,
    metavar="FIGURE=NUMBER",
    help="A bound, as teacher-psnr=35, instead of the default ones; repeatable.",
)
@click.option(
    "--bisect/--no-bisect",
    default=None,
    help="Find the groups of layers at fault and their price.  [default: where FP16 misses a gate]",
)
@click.option("--report", type=OutputFile(), help="Write a page with curves and frames, .html; replaces an older one.")
@click.option("--json", "as_json", is_flag=True, help="Print figures and curves as JSON.")
@sampling_options
@threads_option
def verify(
    bundle: Path, gates: tuple[str, ...], bisect: bool | None, report: Path | None, as_json: bool, **given: Any
) -> None:
    """Measure what a precision of BUNDLE costs over long rollouts; exit status 3 where a gate is missed.

    Both sides get the same noise. Free-running, each goes on from what it made; teacher-forced, each chunk is made
    from the reference's cache. The result is written into model.json where that can be written. With --bisect, and by
    itself where an FP16 precision misses a gate, layers are kept in float32 by halves until those are found that keep
    the bound on PSNR from being held.
    """
    from ..console.progress import show_progress
    from .gates import parse_gate
    from .verify.verification import VerifyRequest
    from .verify.verification import verify as run

    wanted = {gate.figure: gate.bound for gate in map(parse_gate, gates)} or None
    request = VerifyRequest(bundle=bundle, gates=wanted, **given)
    verdict = run(request, show=show_progress)
    by_itself = bisect is None and bool(verdict.missed) and "fp16" in verdict.accuracy.precision
    found = None
    try:
        _report(verdict, report, in_words=not as_json)
        if bisect or by_itself:
            found = _bisect(request, by_itself)
    finally:  # whatever failed or was stopped: the verdict took minutes
        if as_json:
            told = {"bisection": dataclasses.asdict(found)} if found is not None else {}
            click.echo(json.dumps({**json.loads(verdict.to_json()), **told}, indent=1))
    if found is not None and not as_json:
        click.echo(found.describe())
    if verdict.missed:
        sys.exit(_GATE_MISSED)


def _report(verdict: Verdict, page: Path | None, *, in_words: bool) -> None:
    """Write the page, then print the verdict, also where the page could not be written."""
    from .verify.verification import write_report

    try:
        if page is not None:
            write_report(page, verdict)
    finally:
        if in_words:
            click.echo(verdict.describe())


def _bisect(request: VerifyRequest, by_itself: bool) -> Bisection | None:
    """Bisect; where nobody asked for it, a failure or Ctrl-C is a line on stderr and the verdict stands.

    A signal that ends the process, as SIGTERM does, is never taken for Ctrl-C.
    """
    from ..console.progress import show_progress
    from .choose.bisection import bisect_request

    if by_itself:
        click.echo(
            "a gate was missed: bisecting, which takes a while; Ctrl-C stops it, --no-bisect leaves it out", err=True
        )
    try:
        with show_progress("bisecting, variants") as on_progress:
            return bisect_request(request, on_progress=on_progress)
    except (CalibrationError, KeyboardInterrupt) as error:
        if not by_itself or isinstance(error, Terminated):
            raise
        click.echo(f"no group could be named: {str(error) or 'it was stopped'}", err=True)
    return None
