"""The command ``vdmrt``: composes what each folder brings, and turns errors into one paragraph."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from . import __version__
from .bundle import FP16, FP32, Bundle, Check, Engine, Precision, describe_speed, format_count, record_checks
from .calibration._cli import calibrate, verify
from .console.progress import show_progress
from .console.signals import exit_status, terminable
from .console.spelling import spell_options
from .console.streams import guarded_streams
from .engines._cli import build
from .engines._inspect_cli import inspect
from .errors import EngineError, VdmrtError
from .export._cli import export
from .media._cli import demo, run
from .profiler._cli import profile
from .runtime._cli import doctor

__all__ = ["main"]

_FAILED, _MISUSED = 1, 2
# Denoising steps of the chunk that an engine is checked with, and the work that a CPU does in well under a minute.
_CHECKED_STEPS, _QUICK_FLOPS = 4, 2e12
# Relative L2 of that chunk's latents; what is quantized rounds at other places than ONNX Runtime does.
_AGREES, _AGREES_QUANTISED = {FP32: 1e-3, FP16: 1e-2}, 5e-2


class _Group(click.Group):
    """Prints what a caller can mend without a traceback: exit 1 for an error of ours, 2 for misuse."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command and exit, with signals and streams looked after; click's own where the caller wants no exit."""
        if not extra.pop("standalone_mode", True):
            return super().main(*args, **extra, standalone_mode=False)  # type: ignore[call-overload]
        try:
            with terminable(), guarded_streams():
                sys.exit(self._run(*args, **extra))
        except KeyboardInterrupt as error:  # while the process was ending already
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
    """Return an error in words; the system's own name their file last and begin with a number."""
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
    Messages that stderr cannot take are lost; the command goes on.
    """
    context = click.get_current_context()
    context.with_resource(_talking(logging.WARNING if quiet else logging.INFO))
    context.obj = _check_engine


@contextmanager
def _talking(level: int) -> Iterator[None]:
    """Send what the library logs to stderr, as long as the command runs."""
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
    """Prefixes that this field reads without thinking: [I], [W], [E]."""

    def format(self, record: logging.LogRecord) -> str:
        record.letter = record.levelname[0]
        return super().format(record)


def _check_engine(bundle: Bundle, engine: Engine, *, full: bool, device: str) -> Engine:
    """Run an engine that was built, hold it against ONNX Runtime, and write what was found into its manifest.

    Args:
        bundle: Whose engine it is.
        engine: The newest that fits; of ONNX Runtime it is held against the graphs as they were exported.
        full: Whether to compare also where ONNX Runtime would take minutes.
        device: What the engine was built for, as "cuda:1".

    Raises:
        EngineError: It does not run, or does not agree; its manifest says so, and it is never run again.
    """
    manifest = bundle.manifest
    precision, steps = engine.manifest.precision, min(_CHECKED_STEPS, manifest.geometry.max_steps)
    graphs = manifest.graphs[precision]
    flops = graphs["fill"].flops + steps * graphs["denoise"].flops
    checks = []
    try:
        found, seconds = _roll(bundle, engine.manifest.backend, precision, steps, device)
    except VdmrtError as error:
        checks.append(Check("runs", False, str(error)))
    else:
        checks.append(
            Check("runs", True, f"a chunk of {format_count(steps, 'denoising step')}, {1e3 * seconds:.3g} ms a step")
        )
        if full or flops <= _QUICK_FLOPS:
            checks += _compare(bundle, precision, steps, found, seconds)
        else:
            logger = logging.getLogger("vdmrt")
            logger.info("not held against ONNX Runtime, which would take minutes; ask for it with --check full")
        if graphs["denoise"].quantised is not None:
            checks += _race(bundle, precision, device)
    engine = record_checks(engine, tuple(checks))
    for check in checks:
        if check.required and not check.passed:
            raise EngineError(f"{engine.path}: the engine was built and fails its check '{check.name}': {check.detail}")
    return engine


def _race(bundle: Bundle, precision: Precision, device: str) -> list[Check]:
    """Time a quantized engine against a floating point one of the same bundle, denoising steps in turn."""
    from .calibration.choose.speed import time_in_turn
    from .runtime import load

    for against in (FP16, FP32):
        if against not in bundle.manifest.graphs:
            continue
        try:
            other = load(bundle.path, backend="tensorrt", device=device, precision=against, verify=False)
        except VdmrtError as error:
            logging.getLogger("vdmrt").warning("%s was not timed against %s: %s", precision, against, error)
            continue
        with (
            other,
            load(bundle.path, backend="tensorrt", device=device, precision=precision, verify=False) as model,
            show_progress(f"timing {precision} against {against}, chunks") as on_progress,
        ):
            found = time_in_turn(model, other, on_progress=on_progress)
        told = describe_speed(precision, against, found.ratio, found.interval.low, found.interval.high)
        return [Check(f"faster than {against}", found.interval.low > 1, told, required=False)]
    return []


def _compare(bundle: Bundle, precision: Precision, steps: int, found: Any, seconds: float) -> list[Check]:
    """Run the same chunk in ONNX Runtime; say how far apart they are, and which is faster."""
    import numpy as np

    try:
        wanted, their_seconds = _roll(bundle, "onnxruntime", precision, steps, "auto", use_engine=False)
    except VdmrtError as error:
        logging.getLogger("vdmrt").warning("not held against ONNX Runtime: %s", error)
        return []
    distance = float(np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), 1e-30))
    bound = _AGREES.get(precision, _AGREES_QUANTISED)
    return [
        Check(
            "agrees",
            distance <= bound,
            f"relative L2 {distance:.2g} to ONNX Runtime after {format_count(steps, 'step')}, wanted {bound:g}",
        ),
        Check(
            "faster",
            seconds < their_seconds,
            f"{1e3 * seconds:.3g} ms a denoising step, ONNX Runtime here {1e3 * their_seconds:.3g} ms",
            required=False,
        ),
    ]


def _roll(
    bundle: Bundle, backend: str, precision: Precision, steps: int, device: str, *, use_engine: bool = True
) -> tuple[Any, float]:
    """Make one chunk from random latents; return its latents, and the median seconds of a denoising step."""
    import statistics

    import numpy as np

    from .runtime import load

    g = bundle.manifest.geometry
    rng = np.random.default_rng(0)
    text = rng.standard_normal((g.text_tokens, g.text_width), np.float32) if g.text_width else None
    first = rng.standard_normal((1, *g.latent_shape), np.float32)
    options: dict[str, Any] = {"backend": backend, "device": device, "precision": precision, "use_engine": use_engine}
    with load(bundle.path, verify=False, **options) as model:
        with model.session(seed=0, steps=steps, text=text) as session:
            session.start(first)
            with show_progress(f"checking with {backend}, denoising steps") as on_progress:
                chunk = session.step(on_step=lambda done: on_progress(done, steps))
    return chunk.latents, statistics.median(chunk.timings.denoise_ms) / 1e3


for _command in (export, calibrate, verify, build, inspect, run, profile, demo, doctor):
    main.add_command(_command)
