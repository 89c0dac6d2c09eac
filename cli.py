"""The command ``vdmrt``: combines the commands of all folders, and prints errors as one paragraph."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .calibration._cli import calibrate, verify
from .console.composition import Composition
from .console.signals import exit_status, terminable
from .console.spelling import spell_options
from .console.streams import guarded_streams
from .engines._cli import build
from .engines._inspect_cli import inspect
from .errors import VdmrtError
from .export._cli import export
from .media._cli import demo, run
from .profiler._cli import profile
from .runtime._cli import doctor

if TYPE_CHECKING:
    from .bundle import Bundle, Engine
    from .engines.request import BuildRequest
    from .engines.tensorrt.options import BuildOptions

__all__ = ["main"]

_FAILED, _MISUSED = 1, 2


class _Group(click.Group):
    """The group of all commands. Prints errors without a traceback; exits with 1 for a vdmrt error, 2 for misuse."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command with guarded signals and streams, and exit; unless standalone, run click's ``main``."""
        if not extra.pop("standalone_mode", True):
            return super().main(*args, **extra, standalone_mode=False)  # type: ignore[call-overload]
        try:
            with terminable(), guarded_streams():
                sys.exit(self._run(*args, **extra))
        except KeyboardInterrupt as error:  # while the process was already ending
            sys.exit(exit_status(error))

    def _run(self, *args: Any, **extra: Any) -> int:
        """Run a command; return the exit status."""
        try:
            return self.main(*args, **extra, standalone_mode=False) or 0
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except click.Abort as error:
            reason = str(error.__cause__ or "")
            click.echo(f"Interrupted{f' by {reason}' if reason else ''}.", err=True)
            return exit_status(error.__cause__)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (VdmrtError, OSError, ValueError, TypeError) as error:
            if ctx.params.get("traceback"):
                raise
            command = self.get_command(ctx, ctx.invoked_subcommand or "") or self
            click.echo(f"Error: {spell_options(_sentence(error), command)}", err=True)
            ctx.exit(_FAILED if isinstance(error, VdmrtError | OSError) else _MISUSED)
        except KeyboardInterrupt as error:
            raise click.Abort from error


def _sentence(error: Exception) -> str:
    """Return an error's message; an OSError is reordered to name its file first, without its number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vdmrt")
@click.option("--traceback", is_flag=True, help="Show the traceback of an error.")
@click.option("--quiet", is_flag=True, help="Only warnings and errors on stderr.")
def main(traceback: bool, quiet: bool) -> None:
    """Deploy causal video diffusion models: export, build, run and measure them.

    Results go to stdout, messages and progress to stderr. Exit status: 0 done, 1 failed, 2 misuse, 3 a gate was missed,
    130 interrupted by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP, 141 the reader of stdout is gone (as in "| head").
    Messages that stderr cannot take are lost; the command continues.
    """
    context = click.get_current_context()
    context.with_resource(_talking(logging.WARNING if quiet else logging.INFO))
    context.obj = Composition(_build, _write_polygraphy)


def _build(bundle: Bundle, request: BuildRequest, options: BuildOptions) -> Engine:
    """Build an engine and check it; heavy modules are imported here."""
    from .building import build_engine
    from .console.progress import show_progress

    return build_engine(bundle, **vars(request), options=options, show=show_progress)


def _write_polygraphy(bundle: Bundle, folder: Path) -> list[str]:
    from .calibration.verify.polygraphy import write_polygraphy

    return write_polygraphy(bundle, folder)


@contextmanager
def _talking(level: int) -> Iterator[None]:
    """Send the library's log to stderr while the command runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Letter("[%(letter)s] %(message)s"))
    logger = logging.getLogger("vdmrt")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Letter(logging.Formatter):
    """Formatter with the prefixes [I], [W] and [E], as in TensorRT and Polygraphy."""

    def format(self, record: logging.LogRecord) -> str:
        record.letter = record.levelname[0]
        return super().format(record)


for _command in (export, calibrate, verify, build, inspect, run, profile, demo, doctor):
    main.add_command(_command)
