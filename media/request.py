"""The request of a generation; imported by the command line, so without numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.backends.load_options import LoadOptions
from ..runtime.sampling.sampling_options import SamplingOptions

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Request"]


@dataclass(frozen=True)
class Request(LoadOptions, SamplingOptions):
    """A generation's inputs and options, named as in ``vdmrt run``; loading and sampling options are inherited.

    Attributes:
        bundle: The bundle's folder.
        output: ``.mp4`` or ``.gif`` for a clip, ``.npy`` for latents.
        image: A picture to continue from; exactly one of ``image``, ``video`` and ``latents``.
        video: A clip to continue from.
        latents: Latents to continue from, .npy [n, c, h, w].
        frames: Pictures, uint8 [n, height, width, 3], or latents to continue from, instead of a file.
        given: Pixel frames to read from ``video``; None for a chunk and one.
        chunks: Autoregressive steps.
        seed: Seed of all noise; None for a random one.
        fps: Pixel frames per second of the clip.
        force: Whether an existing output is replaced.
    """

    bundle: Path
    output: Path
    image: Path | None = None
    video: Path | None = None
    latents: Path | None = None
    frames: npt.NDArray[Any] | None = None
    given: int | None = None
    chunks: int = 10
    seed: int | None = None
    fps: float = 8.0
    force: bool = False

    def __post_init__(self) -> None:
        LoadOptions.__post_init__(self)
        SamplingOptions.__post_init__(self)
        sources = [name for name in ("image", "video", "latents", "frames") if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ValueError(f"give exactly one of --image, --video and --latents, got {len(sources)}")
        if self.chunks < 1:
            raise ValueError(f"--chunks must be at least 1, got {self.chunks}")
        if not 0 < self.fps < math.inf:
            raise ValueError(f"--fps must be positive and finite, got {self.fps}")
        if self.given is not None and (self.given < 1 or self.video is None):
            raise ValueError(f"--given must be at least 1 and goes with --video, got {self.given}")
