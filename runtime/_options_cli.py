"""The options that several commands share, stated once: the fields of LoadOptions and SamplingOptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from ..bundle import Precision
from ..console.parameters import Number
from ..console.sections import SharedOption
from ..hosts import thread_count
from .backends.load_options import BACKENDS, LoadOptions, gpu_index
from .sampling.sampling_options import SAMPLERS

__all__ = ["load_options", "precision_option", "sampling_options", "seed_option", "threads_option"]

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)
_PRECISION = click.Choice(get_args(Precision))
_DEFAULTS = LoadOptions()


class _Device(click.ParamType[str]):
    """A device, as LoadOptions takes it."""

    name = "DEVICE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name."""
        try:
            gpu_index(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class _Threads(click.ParamType[int]):
    """A number of threads, at most one for each CPU that the process may use."""

    name = "COUNT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the option and compare it with the CPUs."""
        try:
            return thread_count(click.INT.convert(value, param, ctx))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Seed(click.ParamType[int]):
    """A seed, as a session takes it."""

    name = "SEED"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the option."""
        try:
            seed = int(value)
        except ValueError:
            seed = -1
        if not 0 <= seed < 2**64:
            self.fail(f"wanted a whole number of at least 0 and below 2**64, got {value!r}", param, ctx)
        return seed


def precision_option(help_text: str) -> Callable[[F], F]:
    """Add ``--precision``, one of the precisions that a bundle may have."""
    return click.option("--precision", type=_PRECISION, metavar="PRECISION", help=help_text)


def seed_option(default: int | None, help_text: str) -> Callable[[F], F]:
    """Add ``--seed``; None draws one."""
    return click.option("--seed", default=default, show_default=True, type=_Seed(), help=help_text)


def _shared(section: str, *declarations: str, **given: Any) -> Callable[[F], F]:
    return click.option(*declarations, cls=SharedOption, section=section, **given)


def threads_option(command: F) -> F:
    """Add ``--threads``."""
    return _shared(
        "What runs it",
        "--threads",
        type=_Threads(),
        help="Threads of ONNX Runtime on the CPU.  [default: one for each CPU]",
    )(command)


def load_options(command: F) -> F:
    """Add an option for each field of LoadOptions."""
    return _add(command, _LOADING)


def sampling_options(command: F) -> F:
    """Add an option for each field of SamplingOptions."""
    return _add(command, _SAMPLING)


def _add(command: F, options: list[Callable[[F], F]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def _loading(*declarations: str, **given: Any) -> Callable[[F], F]:
    return _shared("What runs it", *declarations, **given)


def _sampling(*declarations: str, **given: Any) -> Callable[[F], F]:
    return _shared("Sampling", *declarations, **given)


_LOADING: list[Callable[[Any], Any]] = [
    _loading(
        "--precision",
        type=_PRECISION,
        metavar="PRECISION",
        help="Of the graphs: fp32, fp16, or what vdmrt calibrate added, as int8.  [default: what has an engine that "
        "fits; else fp32 where the bundle has it]",
    ),
    _loading(
        "--backend",
        type=click.Choice(["auto", *BACKENDS]),
        default=_DEFAULTS.backend,
        show_default=True,
        help="auto takes TensorRT where an engine of the bundle fits, else ONNX Runtime.",
    ),
    _loading(
        "--device", type=_Device(), default=_DEFAULTS.device, show_default=True, help="auto, cpu, cuda or cuda:NUMBER."
    ),
    threads_option,
    _loading(
        "--engine/--no-engine",
        "use_engine",
        default=_DEFAULTS.use_engine,
        help="On the CPU, run the graphs of an engine of the bundle that fits.  [default: engine]",
    ),
    _loading(
        "--cuda-graph/--no-cuda-graph",
        default=_DEFAULTS.cuda_graph,
        help="On a GPU, capture a denoising step once and replay it.  [default: cuda-graph]",
    ),
    _loading(
        "--trust-plans", is_flag=True, help="Load TensorRT plans that this user did not build: they are native code."
    ),
    _loading(
        "--lean-runtime",
        type=_FILE,
        help="TensorRT's libnvinfer_lean of the release that built version-compatible plans: native code.",
    ),
]
_SAMPLING: list[Callable[[Any], Any]] = [
    _sampling("--steps", type=click.IntRange(1), help="Denoising steps of a chunk.  [default: the bundle's]"),
    _sampling("--sampler", type=click.Choice(list(SAMPLERS)), help="The sampler.  [default: the bundle's]"),
    _sampling("--guidance", type=Number(), help="Scale of classifier-free guidance.  [default: the bundle's]"),
    _sampling("--text", type=_FILE, help="Text embeddings, .npy [tokens, width]."),
    _sampling("--text-mask", type=_FILE, help="1 for a token that counts, .npy [tokens].  [default: all count]"),
    _sampling(
        "--prefix-noise",
        type=click.IntRange(0),
        help="Training timestep whose noise is added to frames before they are cached.  [default: none]",
    ),
]
