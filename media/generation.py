"""Generation from an input file to an output file, as in ``vdmrt run``: progress, Ctrl-C, and a summary."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..bundle import Measured, format_count, format_nbytes, read_measured
from ..errors import BundleError, MediaError, SessionError
from ..runtime.cache.window import check_chunks
from ..runtime.sampling.session_arguments import session_arguments
from ..runtime.session.loading import open_model
from .clip_writer import ClipWriter
from .pictures import read_clip, read_latents, read_picture
from .request import Request

if TYPE_CHECKING:
    from ..bundle import Bundle, Precision
    from ..runtime.session.chunk import Chunk, Timings
    from ..runtime.session.model import Model
    from ..runtime.session.session import Session

__all__ = ["Request", "Summary", "generate"]

_log = logging.getLogger("vdmrt")


@dataclass(frozen=True)
class Summary:
    """Summary of a generation: its output, settings, backend and speed.

    Attributes:
        output: The output file.
        chunks: Finished autoregressive steps.
        latent_frames: Latent frames in the file, including the given ones.
        interrupted: The signal that ended it early, as "SIGINT" for Ctrl-C, or None.
        seed: Seed of all noise.
        sampler: The sampler.
        steps: Denoising steps.
        backend: The backend that ran the graphs.
        precision: Precision of the graphs.
        codec: Kind of the codec, or None.
        random_weights: Whether the weights are untrained.
        cache_nbytes: Bytes of the KV cache.
        denoise_ms_median: Median time of a denoising step.
        fill_ms_median: Median time of a cache fill.
        latent_frames_per_second: Generated latent frames over the time of their autoregressive steps, codec excluded.
        wall_seconds: Wall time of loading, generating, decoding and writing.
    """

    output: str
    chunks: int
    latent_frames: int
    interrupted: str | None
    seed: int
    sampler: str
    steps: int
    backend: str
    precision: Precision
    codec: str | None
    random_weights: bool
    cache_nbytes: int
    denoise_ms_median: float
    fill_ms_median: float
    latent_frames_per_second: float
    wall_seconds: float

    def describe(self) -> str:
        """Return the summary as text."""
        frames, chunks = format_count(self.latent_frames, "latent frame"), format_count(self.chunks, "chunk")
        steps = format_count(self.steps, "step")
        return "\n".join(
            [
                f"{self.output}: {frames}, {chunks}{' (interrupted)' if self.interrupted else ''}",
                f"{self.sampler}, {steps}, seed {self.seed}; {self.backend}, {self.precision}",
                f"denoising step {self.denoise_ms_median:.1f} ms, cache fill {self.fill_ms_median:.1f} ms (medians), "
                f"{self.latent_frames_per_second:.2f} latent frames/s without the codec, "
                f"KV cache {format_nbytes(self.cache_nbytes)}, {self.wall_seconds:.1f} s in all",
            ]
        )


def generate(
    request: Request,
    *,
    on_clip: Callable[[npt.NDArray[Any], int], None] | None = None,
    on_progress: Callable[[int, int, str], None] = lambda done, total, place: None,
) -> Summary:
    """Generate chunks and write them to a file.

    Args:
        request: What to generate.
        on_clip: Called at the end with all written frames, [n, ...], and the number of given ones.
        on_progress: Called after each denoising step with the steps done, the total, and "chunk 3 of 10"; from the
            thread that generates the chunk.

    Raises:
        VdmrtError: An input is missing, not trusted, or does not fit; no unfinished file is left.
        ValueError: A number is out of range.
    """
    started = time.perf_counter()
    if request.output.exists() and not request.force:
        raise MediaError(f"'{request.output}' already exists; choose another name, or replace it with --force")
    arguments = session_arguments(request)
    with (
        ClipWriter(request.output, frames_per_second=request.fps) as writer,
        open_model(request.bundle, request) as model,
    ):
        wants_pictures = request.output.suffix.lower() != ".npy"
        _warn(model, wants_pictures, request.output)
        first = _read_first(request, model)
        check_chunks(model.manifest.geometry, len(first), request.chunks)
        with model.session(seed=request.seed, **arguments) as session:
            session.start(first)
            given = _given(first, model, wants_pictures)
            writer.append(given)
            # Written frames are kept only for on_clip: a long clip does not fit into memory.
            written = [given]
            chunks = _stream(session, request.chunks, on_progress)
            timings, interrupted = _write(chunks, writer, request.output, written if on_clip is not None else None)
            writer.close()
            summary = _summarize(request, model, session, timings, writer.count, interrupted, started)
    if on_clip is not None:
        on_clip(np.concatenate(written), len(given))
    return summary


def _warn(model: Model, wants_pictures: bool, output: Path) -> None:
    if model.manifest.random_weights:
        _log.warning("the bundle's weights are random: the output is noise")
    measured = _read_measured(model.bundle)
    accuracy = next((one for one in measured.accuracy if one.precision == model.precision), None)
    if accuracy is not None:
        (_log.info if accuracy.passed else _log.warning)("%s", accuracy.describe())
    elif not model.precision.is_exported:
        _log.warning("the accuracy of %s has not been measured in this bundle; run vdmrt verify", model.precision)
    speed = next((one for one in measured.speeds if one.precision == model.precision), None)
    if speed is not None:
        (_log.info if speed.faster else _log.warning)("%s", speed.describe())
    if not wants_pictures:
        return
    if model.codec is None:
        raise MediaError(f"{output}: the bundle has no codec and generates latents only; choose an .npy file")
    if model.codec.kind == "preview":
        _log.warning("no VAE in the bundle: pictures come from the preview codec, at an eighth of their resolution")


def _read_measured(bundle: Bundle) -> Measured:
    """Return the bundle's results; none, with a warning, where they cannot be read: a run does not need them."""
    try:
        return read_measured(bundle)
    except BundleError as error:
        _log.warning("the measured accuracy and speed are not known: %s", error)
        return Measured()


def _read_first(request: Request, model: Model) -> npt.NDArray[Any]:
    if request.frames is not None:
        return request.frames
    if request.latents is not None:
        return read_latents(request.latents)
    if model.codec is None:
        raise MediaError("the bundle has no codec and takes latents only; give --latents")
    height, width = model.codec.picture_size
    if request.image is not None:
        return read_picture(request.image, height=height, width=width)
    assert request.video is not None, "the request has exactly one source"
    geometry = model.manifest.geometry
    count = request.given or min(geometry.chunk_frames + 1, geometry.slots)
    return read_clip(request.video, height=height, width=width, count=count)


def _given(first: npt.NDArray[Any], model: Model, wants_pictures: bool) -> npt.NDArray[Any]:
    """Return the given frames in the form of the output."""
    is_pictures = first.dtype == np.uint8
    if is_pictures == wants_pictures:
        return first
    assert model.codec is not None, "checked before anything ran"
    return model.codec.decode(first) if wants_pictures else model.codec.encode(first)


def _stream(session: Session, chunks: int, on_progress: Callable[[int, int, str], None]) -> Iterator[Chunk]:
    steps, total = 0, chunks * session.table.steps

    def on_step(done: int) -> None:
        nonlocal steps
        chunk = 1 + steps // session.table.steps
        steps += 1
        on_progress(steps, total, f"chunk {chunk} of {chunks}")

    # On a GPU, decoding and writing a chunk overlap the next one's denoising; on the CPU they would compete.
    return session.stream(chunks, on_step=on_step, ahead=not session.lane.device.is_host)


def _write(
    chunks: Iterator[Chunk], writer: ClipWriter, output: Path, written: list[npt.NDArray[Any]] | None
) -> tuple[list[Timings], str | None]:
    """Write chunks as they are generated, and append them to ``written``.

    Returns:
        Their times, and the signal that ended the generation early, or None.

    Raises:
        SessionError: A chunk failed. The previous ones are kept in the file.
        KeyboardInterrupt: It came before the first chunk was finished. Nothing was written.
    """
    timings: list[Timings] = []
    try:
        for chunk in chunks:
            timings.append(chunk.timings)
            made = chunk.latents if output.suffix.lower() == ".npy" else chunk.pictures
            if written is not None:
                written.append(made)
            writer.append(made)
    except SessionError as error:
        if not timings:
            raise
        writer.close()
        kept = format_count(len(timings), "chunk")
        raise SessionError(f"{error}; '{output}' keeps the {kept} before it") from error
    except KeyboardInterrupt as error:
        if not timings:
            writer.discard()  # an older file is worth more than the given frames alone
            _log.warning("interrupted before the first chunk was finished; '%s' was not written", output)
            raise
        _log.warning("interrupted after %s; keeping the finished chunks", format_count(len(timings), "chunk"))
        return timings, str(error) or "SIGINT"  # vdmrt's handlers pass the signal's name
    return timings, None


def _summarize(
    request: Request,
    model: Model,
    session: Session,
    timings: list[Timings],
    count: int,
    interrupted: str | None,
    started: float,
) -> Summary:
    steps = [step for timing in timings for step in timing.denoise_ms]
    fills = [timing.fill_ms for timing in timings]
    seconds = sum(timing.total_ms for timing in timings) / 1e3
    frames = len(timings) * model.manifest.geometry.chunk_frames
    return Summary(
        output=str(request.output),
        chunks=len(timings),
        latent_frames=count,
        interrupted=interrupted,
        seed=session.seed,
        sampler=session.table.name,
        steps=session.table.steps,
        backend=model.describe(),
        precision=model.precision,
        codec=model.codec.kind if model.codec else None,
        random_weights=model.manifest.random_weights,
        cache_nbytes=session.lane.cache_nbytes,
        denoise_ms_median=statistics.median(steps) if steps else 0.0,
        fill_ms_median=statistics.median(fills) if fills else 0.0,
        latent_frames_per_second=frames / seconds if seconds else 0.0,
        wall_seconds=time.perf_counter() - started,
    )
