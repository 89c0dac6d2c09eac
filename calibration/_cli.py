"""The commands ``vdmrt calibrate`` and ``vdmrt verify``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..bundle import EIGHT_BITS, FP8, FP16, encode
from ..console.options import Option, gather, options_of
from ..console.parameters import Number, OutputFile
from ..console.sections import SectionedCommand
from ..console.signals import Terminated
from ..errors import CalibrationError, NotFasterError
from ..runtime._options_cli import PRECISION, SEED, backend_options, sampling_options, threads_option
from .request import CACHE_ALONE, MIXED, CalibrationRequest
from .verify.request import VerifyRequest

if TYPE_CHECKING:
    from ..bundle import Precision
    from .choose.bisection import Bisection
    from .graph.mixed import MixedRequest
    from .verify.verification import Verdict

__all__ = ["calibrate", "verify"]

_GATE_MISSED = 3


def _request(**given: Any) -> CalibrationRequest | MixedRequest:
    """Return the request of the options; ``--precision fp16`` observes nothing and takes ``--keep`` alone."""
    if given["precision"] != MIXED:
        if given["data"] is None:
            raise click.UsageError(
                f"--precision {given['precision']} observes rollouts and needs clips; name them with --data"
            )
        return CalibrationRequest(**given)
    from .graph.mixed import MixedRequest

    context = click.get_current_context()
    taken = ("bundle", "precision", "keep", "as_json")
    named = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    for name in sorted(set(named) - set(taken)):
        option = f"--{name.replace('_', '-')}"
        raise click.UsageError(f"--precision fp16 observes nothing: it takes --keep, but not {option}")
    if not given["keep"]:
        raise click.UsageError("--precision fp16 needs the layers to compute in float32; name them with --keep")
    return MixedRequest(given["bundle"], given["keep"])


@click.command(cls=SectionedCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@options_of(
    CalibrationRequest,
    data=Option("Clips or latents: a file, or a folder of them.", click.Path(path_type=Path)),
    precision=Option(
        "Precision of the blocks' linears; none for the cache alone; fp16 for FP16 with some layers in float32.",
        click.Choice([*EIGHT_BITS, CACHE_ALONE, MIXED]),
    ),
    samples=Option("Least number of denoising runs to observe, in whole rollouts.", click.IntRange(1)),
    method=Option("How ranges are chosen.", click.Choice(["max", "percentile", "mse", "entropy"])),
    rounding=Option(
        "Rounding of weights: gptq compensates each channel's error in the channels that follow.",
        click.Choice(["gptq", "nearest"]),
    ),
    smooth=Option("SmoothQuant's alpha, 0 to 1; 0 turns it off.", Number(0, 1), metavar="ALPHA"),
    keep=Option(
        "Layers that stay in floating point, for fp16 in float32; repeatable.",
        click.STRING,
        metavar="PATTERN",
        multiple=True,
    ),
    keep_fill=Option("Leave the cache fill in floating point: a little slower and a little more accurate."),
    budget=Option(
        "Keep the most sensitive groups in floating point until PSNR reaches this many dB.",
        Number(above=0),
        metavar="DB",
    ),
    kv=Option("Quantize the cache too; int8 costs less accuracy.", click.Choice(EIGHT_BITS)),
    seed=Option("Seed of all noise and choices.", SEED),
    observations=Option(
        "Folder that keeps the observed statistics, for further calibrations on the same data.",
        click.Path(path_type=Path),
    ),
)
@click.option("--accept-slower", is_flag=True, help="Add INT8 graphs that are not shown to be faster too.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@sampling_options
@threads_option(CalibrationRequest)
@gather("request", CalibrationRequest, make=_request)
def calibrate(request: CalibrationRequest | MixedRequest, as_json: bool, accept_slower: bool) -> None:
    """Observe real rollouts of BUNDLE and add graphs of lower precision to it.

    int8 adds "int8" (float32 around it: ONNX Runtime, TensorRT 8.5) and, where the bundle has FP16 graphs,
    "int8-fp16" (TensorRT 10 and 11); fp8 adds "fp8". An interrupted run resumes after its last rollout. INT8 is
    timed against floating point on this CPU before it is added; exit status 3 where it is not shown to be faster. fp16
    observes nothing: it adds "fp16-mixed", the FP16 graphs with the layers of --keep in float32.
    """
    from ..console.progress import show_progress
    from .calibrating import calibrate as run
    from .choose.speed import Judge
    from .graph.mixed import mix_precisions

    if not isinstance(request, CalibrationRequest):
        mixed = mix_precisions(request)
        click.echo(json.dumps(encode(mixed), indent=1) if as_json else mixed.describe())
        return
    judge = Judge(request.threads, accept_slower, show_progress)
    try:
        summary = run(request, judge=judge, show=show_progress)
    except NotFasterError as error:
        if as_json:
            speeds = [encode(one) for one in error.speeds]
            click.echo(json.dumps({"bundle": str(request.bundle), "precisions": [], "speeds": speeds}, indent=1))
        click.echo(f"Error: {error}", err=True)
        sys.exit(_GATE_MISSED)
    click.echo(json.dumps(encode(summary), indent=1) if as_json else summary.describe())


def _verify_request(*, gates: tuple[str, ...], **given: Any) -> VerifyRequest:
    """Return the request of the options, with the gates parsed."""
    from .gates import parse_gate

    wanted = {gate.figure: gate.bound for gate in map(parse_gate, gates)}
    return VerifyRequest(gates=wanted or None, **given)


@click.command(cls=SectionedCommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@options_of(
    VerifyRequest,
    precision=Option("Precision to measure.  [default: the one added last]", PRECISION, metavar="PRECISION"),
    against=Option("fp32, or another bundle.", click.STRING),
    data=Option("Clips or latents that rollouts continue from.  [default: noise]", click.Path(path_type=Path)),
    chunks=Option("Autoregressive steps.", click.IntRange(1)),
    seeds=Option("Rollouts, each with its own seed.", click.IntRange(1)),
    gates=Option(
        "A bound such as teacher-psnr=35, in place of the default ones; repeatable.",
        click.STRING,
        names=("--gate",),
        metavar="FIGURE=NUMBER",
        multiple=True,
    ),
)
@click.option(
    "--bisect/--no-bisect",
    default=None,
    help="Find the groups of layers at fault and the cost of keeping them.  [default: where FP16 misses a gate]",
)
@click.option("--report", type=OutputFile(), help="Write a page with curves and frames, .html; replaces an older one.")
@click.option("--json", "as_json", is_flag=True, help="Print figures and curves as JSON.")
@sampling_options
@backend_options
@gather("request", VerifyRequest, make=_verify_request)
def verify(request: VerifyRequest, bisect: bool | None, report: Path | None, as_json: bool) -> None:
    """Measure the accuracy of a precision of BUNDLE over long rollouts; exit status 3 where a gate is missed.

    The precision runs as deployed: on an engine where one fits. The reference is float32 in ONNX Runtime on the CPU.
    Both get the same noise. Free-running, each continues from its own chunks; teacher-forced, each chunk is made
    from the reference's cache. The result is written into measured.json where that can be written. With --bisect, and
    by default where an FP16 precision misses a gate, a bisection keeps layers in float32 to find those that violate the
    bound on PSNR.
    """
    from ..console.progress import show_progress
    from .verify.verification import verify as run

    verdict = run(request, show=show_progress)
    by_itself = bisect is None and bool(verdict.missed) and _is_half(verdict.accuracy.precision)
    found = None
    try:
        _report(verdict, report, in_words=not as_json)
        if bisect or by_itself:
            found = _bisect(request, by_itself)
    finally:  # also after a failure or Ctrl-C: the verdict took minutes
        if as_json:
            extra = {"bisection": encode(found)} if found is not None else {}
            click.echo(json.dumps({**json.loads(verdict.to_json()), **extra}, indent=1))
    if found is not None and not as_json:
        click.echo(found.describe())
    if verdict.missed:
        sys.exit(_GATE_MISSED)


def _is_half(precision: Precision) -> bool:
    """Whether FP16 may be at fault: in FP8 precisions the linears are the likelier cause."""
    return precision.around == FP16.around and precision.linears != FP8


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
    """Bisect; where it was not asked for, a failure or Ctrl-C prints a line on stderr and the verdict remains.

    A signal that ends the process, such as SIGTERM, is never treated as Ctrl-C.
    """
    from ..console.progress import show_progress
    from .choose.bisection import bisect_request

    if by_itself:
        click.echo("a gate was missed: bisecting, which takes a while; Ctrl-C stops it, --no-bisect skips it", err=True)
    try:
        with show_progress("bisecting, variants") as on_progress:
            return bisect_request(request, on_progress=on_progress)
    except (CalibrationError, KeyboardInterrupt) as error:
        if not by_itself or isinstance(error, Terminated):
            raise
        click.echo(f"the bisection found no group: {str(error) or 'it was stopped'}", err=True)
    return None
