"""Options shared by several commands: those of LoadOptions and SamplingOptions, seed and threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..bundle import BACKENDS, PRECISIONS
from ..console.options import Option, options_of
from ..console.parameters import Number
from ..hosts import thread_count
from .backends.load_options import LoadOptions, gpu_index
from .sampling.sampling_options import SAMPLERS, SamplingOptions

__all__ = ["PRECISION", "SEED", "backend_options", "load_options", "sampling_options", "threads_option"]

F = TypeVar("F", bound=Callable[..., Any])
PRECISION = click.Choice(PRECISIONS)
_FILE = click.Path(path_type=Path, dir_okay=False)
_WHAT_RUNS_IT = "What runs it"


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


SEED = _Seed()
_THREADS = Option("Threads of ONNX Runtime on the CPU.  [default: one for each CPU]", _Threads())
_PRECISION = {
    "precision": Option(
        "Of the graphs: fp32, fp16, or what vdmrt calibrate added, as int8.  [default: what has an engine that fits; "
        "else fp32 where the bundle has it]",
        PRECISION,
        metavar="PRECISION",
    ),
}
_BACKEND = {
    "backend": Option(
        "auto takes TensorRT, or TensorRT for RTX, where an engine of the bundle fits, else ONNX Runtime.",
        click.Choice(["auto", *BACKENDS]),
    ),
    "device": Option("auto, cpu, cuda or cuda:NUMBER.", _Device()),
    "threads": _THREADS,
    "use_engine": Option(
        "In ONNX Runtime, run the graphs of an engine of the bundle that fits.  [default: engine]",
        names=("--engine/--no-engine",),
    ),
    "cuda_graph": Option("On a GPU, capture a denoising step once and replay it.  [default: cuda-graph]"),
    "trust_plans": Option("Load plans that this user did not build: they are native code."),
    "lean_runtime": Option(
        "TensorRT's libnvinfer_lean of the release that built version-compatible plans: native code.", _FILE
    ),
}
load_options = options_of(LoadOptions, _WHAT_RUNS_IT, **_PRECISION, **_BACKEND)
backend_options = options_of(LoadOptions, _WHAT_RUNS_IT, **_BACKEND)
sampling_options = options_of(
    SamplingOptions,
    "Sampling",
    steps=Option("Denoising steps of a chunk.  [default: the bundle's]", click.IntRange(1)),
    sampler=Option("The sampler.  [default: the bundle's]", click.Choice(list(SAMPLERS))),
    guidance=Option("Scale of classifier-free guidance.  [default: the bundle's]", Number()),
    text=Option("Text embeddings, .npy [tokens, width].", _FILE),
    text_mask=Option("1 for a token that counts, .npy [tokens].  [default: all count]", _FILE),
    prefix_noise=Option(
        "Training timestep whose noise is added to frames before they are cached.  [default: none]", click.IntRange(0)
    ),
)


def threads_option(settings: type[Any]) -> Callable[[F], F]:
    """Add ``--threads`` for the field ``threads`` of a dataclass."""
    return options_of(settings, _WHAT_RUNS_IT, threads=_THREADS)
