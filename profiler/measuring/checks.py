"""Checks of settings against the bundle and the machine, before the measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...bundle import open_bundle
from ...runtime._core import host_device
from ...runtime.backends.resolution import open_backend, resolve
from ...runtime.lane.prompt import make_prompt, read_null_text
from ...runtime.sampling.session_arguments import session_arguments
from ...runtime.session.session_defaults import complete_settings, make_table

if TYPE_CHECKING:
    from ...bundle import Bundle
    from .settings import Settings

__all__ = ["check_loading", "check_session"]


def check_loading(settings: Settings) -> None:
    """Open the backend of the settings, and close it; no graph is loaded.

    Raises:
        BundleError: The bundle is missing, or does not contain the precision.
        EngineError: TensorRT was requested, and no engine fits.
        BackendError: The backend is not installed, or does not run on the device.
        DeviceError: The driver, or a GPU of that index, is missing.
    """
    bundle = open_bundle(settings.bundle)
    if settings.precision is not None:
        bundle.graphs(settings.precision)
    open_backend(resolve(bundle, settings), settings).close()


def check_session(bundle: Bundle, settings: Settings) -> None:
    """Check the settings that a session of a bundle would refuse.

    Raises:
        MediaError: A file of text embeddings or of their mask cannot be read.
        TensorMismatchError: The text does not fit the model.
        ValueError: A number is out of range, or the sampler does not fit the model.
    """
    arguments, manifest = session_arguments(settings), bundle.manifest
    text, mask = arguments.pop("text", None), arguments.pop("text_mask", None)
    given = dict.fromkeys(("sampler", "steps", "guidance", "prefix_noise")) | arguments
    complete = complete_settings(manifest, seed=settings.seed, eta=0.0, shift=1.0, **given)
    table = make_table(manifest, complete)
    table.padded(manifest.geometry.max_steps)
    if complete.prefix_noise is not None:
        table.prefix_noise(complete.prefix_noise)
    if text is not None or mask is not None:
        make_prompt(manifest.geometry, read_null_text(bundle), text, mask, host_device)
