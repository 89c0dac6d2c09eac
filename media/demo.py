"""The demo: continues a sky outside the bundled model's training set, for any number of chunks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import BundleError, MediaError
from ..runtime.backends.load_options import LoadOptions
from .request import Request

__all__ = ["demo_request"]

_SKY = Path(__file__).parents[1] / "examples" / "sky"
_TRAINING_SKIES = 1_000_000  # seeds from here on are in the training set
_GIVEN = 9  # a chunk and one: enough to show the direction of the wind


def demo_request(
    output: Path, *, sky: int, chunks: int, steps: int | None, loading: LoadOptions | None = None
) -> Request:
    """Render the first frames of a sky, and return a request to continue from them.

    Args:
        output: The folder of the clip; created if missing. The clip of an earlier demo is replaced.
        sky: Seed of the sky and of all noise; not in the model's training set.
        chunks: Autoregressive steps.
        steps: Denoising steps; None for the bundle's default.
        loading: How the bundle is loaded; None for the defaults.

    Raises:
        BundleError: The bundled model is missing.
        ValueError: A number is out of range.
        MediaError: The folder cannot be made or written.
    """
    if not 0 <= sky < _TRAINING_SKIES:
        raise ValueError(f"--sky, a seed, must be 0 <= sky < {_TRAINING_SKIES}, got {sky}")
    request = Request(
        bundle=_SKY / "bundle",
        output=output / "sky.mp4",
        frames=_render(sky),
        chunks=chunks,
        steps=steps,
        seed=sky,
        **vars(loading or LoadOptions()),
        force=True,
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"'{output}' cannot be made: {error.strerror}; give another --output") from error
    return request


def _render(sky: int) -> npt.NDArray[Any]:
    """Render the given frames with the example's renderer, which is a file beside its bundle and not a package."""
    source = _SKY / "sky.py"
    spec = importlib.util.spec_from_file_location("vdmrt_demo_sky", source) if source.is_file() else None
    if spec is None or spec.loader is None:
        raise BundleError("the bundled model is missing; install vdmrt again", path=_SKY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    frames: npt.NDArray[Any] = module.Sky(sky).frames(0, _GIVEN)
    return frames
