"""The kernel report of ``vdmrt inspect --kernels`` and ``vdmrt build --report``."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bundle import write_file
from ..console.options import Option, gather, options_of
from ..console.parameters import Number, OutputFile
from ..console.tables import make_table, open_console
from ..errors import ReportError
from .kernels.request import KernelRequest

if TYPE_CHECKING:
    from ..bundle import Bundle
    from .kernels.comparison import Difference
    from .kernels.report import KernelReport

__all__ = ["check_request", "echo_report", "kernel_options", "print_kernels"]

_GATE_MISSED = 3
_SECTION = "Kernels"
_log = logging.getLogger("vdmrt")


def kernel_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the kernel report to a command, which receives them as ``request``."""
    command = gather("request", KernelRequest)(command)
    return options_of(
        KernelRequest,
        _SECTION,
        kernels=Option("Show what TensorRT made of the graphs: kernels, bytes moved, precisions, copies of the cache."),
        engine=Option(
            "Engine to show, by the name of its folder.  [default: the newest that lists its kernels]",
            click.STRING,
            metavar="KEY",
        ),
        html=Option("Write the report as one HTML page, with a picture of a transformer block.", OutputFile()),
        against=Option(
            "Compare with another bundle's engine of the same precision, an engine's folder, or a report in JSON.",
            click.Path(path_type=Path),
            metavar="OTHER",
        ),
        fail_above_kernels=Option(
            "Exit 3 if cache fill or denoising step has more kernels.", click.IntRange(1), metavar="N"
        ),
        fail_above_mb=Option(
            "Exit 3 if the kernels of cache fill or of denoising step read and write more MB (10^6 bytes).",
            Number(above=0),
            metavar="N",
        ),
    )(command)


def check_request(request: KernelRequest, polygraphy: Path | None) -> None:
    """Refuse options that would have no effect.

    Raises:
        UsageError: An option needs --kernels, or excludes it.
    """
    context = click.get_current_context()
    given = [one.name for one in dataclasses.fields(request) if getattr(request, one.name) not in (None, False)]
    if given and not request.kernels:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is for the kernel report; add --kernels", context)
    if request.kernels and polygraphy is not None:
        raise click.UsageError("--kernels and --polygraphy exclude each other", context)


def print_kernels(bundle: Bundle, request: KernelRequest, as_json: bool) -> None:
    """Print a kernel report, write its page, and exit with 3 where a limit is exceeded.

    Raises:
        BundleError: A bundle is damaged.
        EngineError: No engine has the report, or the other path has none.
        ReportError: The page cannot be written.
    """
    from .kernels.comparison import compare_reports
    from .kernels.gates import judge_kernels
    from .kernels.html import render_kernels
    from .kernels.lookup import choose_engine, read_other
    from .kernels.report import read_report

    engine = choose_engine(bundle, request.engine)
    report = read_report(engine, bundle)
    other = read_other(request.against, engine.manifest.precision) if request.against else None
    against = str(other["engine"]) if other else ""
    differences = compare_reports(report.to_json(), other) if other else ()
    gates = judge_kernels(report, most_kernels=request.fail_above_kernels, most_mb=request.fail_above_mb)
    missed = [gate for gate in gates if not gate.passed]
    # The page first, because the reader may have closed stdout; the figures also where it cannot be written.
    try:
        if request.html is not None:
            page = render_kernels(report, gates, against=against, differences=differences)
            write_file(request.html, page, fail=ReportError)
            _log.info("wrote %s", request.html)
    finally:
        (_echo_json if as_json else echo_report)(report, against, differences)
        for gate in missed:
            click.echo(f"Missed: {gate.describe()} ({gate.meaning})", err=True)
    if missed:
        sys.exit(_GATE_MISSED)


def _echo_json(report: KernelReport, against: str, differences: Sequence[Difference]) -> None:
    from .kernels.comparison import encode_differences

    compared = {"against": {"engine": against, "stages": encode_differences(differences)}} if against else {}
    click.echo(json.dumps(report.to_json() | compared, indent=1))


def echo_report(report: KernelReport, against: str = "", differences: Sequence[Difference] = ()) -> None:
    """Print a report as tables: a column for each stage, and a comparison if there is one."""
    from .kernels.card import CARD
    from .kernels.text import difference_rows, figure_rows

    console = open_console()
    title = f"kernels of {report.engine} ({report.title})"
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(make_table("", figure_rows(report), header=("", *report.stages), right=True))
    if differences:
        header = ("stage", "", "this", "other", "difference", "ratio")
        console.print()
        console.print(make_table(f"against {against}", difference_rows(differences), header=header))
    console.print(CARD.describe(), markup=False, highlight=False, soft_wrap=True)
