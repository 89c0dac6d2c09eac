"""The calibration set: clips or latents from files, checked, encoded and hashed."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import format_count, sha256_of
from ...errors import CalibrationError, MediaError
from ...media.pictures import read_clip, require_finite

if TYPE_CHECKING:
    from ...bundle import Geometry
    from ...runtime.session.model import Model

__all__ = ["CalibrationSet", "fillable_frames", "read_set"]

Latents = npt.NDArray[np.float32]
# Enough to fill the cache of any model in use and to wrap it.
_MOST_PIXEL_FRAMES = 64
# Fewer clips do not show the differences between clips; the figures in this folder's README are from eight.
_FEW_CLIPS = 4
# Files read from a folder; a file given by its own path may have any suffix.
_SUFFIXES = (".npy", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif")
_log = logging.getLogger("vdmrt")


@dataclass(frozen=True)
class CalibrationSet:
    """Clips to observe.

    Attributes:
        clips: Latents of each clip, [n, c, h, w]; at least a chunk each.
        files: Names of their files, in order.
        sha256: Hash of the files' hashes, in order.
    """

    clips: tuple[Latents, ...]
    files: tuple[str, ...]
    sha256: str

    def describe(self) -> str:
        """Return a summary in one line."""
        frames = sum(len(clip) for clip in self.clips)
        return (
            f"{format_count(len(self.clips), 'clip')}, {format_count(frames, 'latent frame')}, "
            f"from {format_count(len(self.files), 'file')}, {self.sha256[:16]}"
        )

    def shortcomings(self, geometry: Geometry) -> list[str]:
        """Return the set's shortcomings for a model, a sentence each."""
        found = []
        if len(self.clips) < _FEW_CLIPS:
            found.append(
                f"the calibration set has {format_count(len(self.clips), 'clip')}; {_FEW_CLIPS} or more of different "
                "content show what differs between clips"
            )
        longest, full = max(map(len, self.clips), default=0), fillable_frames(geometry)
        if longest < full:
            found.append(
                f"the longest clip has {longest} latent frames, and {full} fill the cache: the full and the wrapped "
                f"cache are observed with generated latent frames alone; give clips of {full} latent frames or more"
            )
        return found


def fillable_frames(geometry: Geometry) -> int:
    """Return the number of given latent frames that the cache holds before a chunk must be generated."""
    limit = geometry.positions.limit
    return geometry.slots if limit is None else min(geometry.slots, limit - geometry.chunk_frames)


def read_set(path: Path, model: Model) -> CalibrationSet:
    """Read a file, or every clip of a folder in the order of their names.

    Args:
        path: ``.npy`` with latents [n, c, h, w] or pictures uint8 [n, height, width, 3], either with clips as an
            additional first axis; or a clip as for ``vdmrt run --video``; or a folder of such files.
        model: Model that gives the clips' geometry and the codec that encodes pictures.

    Raises:
        CalibrationError: No file is found, or a clip is too short or of another size.
        MediaError: A file cannot be read, or holds NaN.
    """
    files = _clip_files(path) if path.is_dir() else [path]
    if not files:
        raise CalibrationError(f"--data '{path}' is a folder without clips; add {', '.join(_SUFFIXES)} files")
    clips = [_checked(clip, file, model) for file in files for clip in _read(file, model)]
    if not clips:
        raise CalibrationError(f"--data '{path}' contains no clip; give clips or latents")
    digest = hashlib.sha256("".join(sha256_of(file) for file in files).encode())
    return CalibrationSet(tuple(clips), tuple(file.name for file in files), digest.hexdigest())


def _clip_files(folder: Path) -> list[Path]:
    """Return the clips of a folder, without hidden files (which may be unfinished) and files of other types."""
    visible = sorted(one for one in folder.iterdir() if one.is_file() and not one.name.startswith("."))
    others = [one.name for one in visible if one.suffix.lower() not in _SUFFIXES]
    if others:
        _log.warning("--data '%s': not read, because they are not clips: %s", folder, ", ".join(others))
    return [one for one in visible if one.name not in others]


def _read(file: Path, model: Model) -> list[npt.NDArray[Any]]:
    if file.suffix != ".npy":
        if model.codec is None:
            raise CalibrationError(
                f"'{file}': the bundle has no codec, so clips cannot be encoded; give latents as .npy"
            )
        height, width = model.codec.picture_size
        return [read_clip(file, height=height, width=width, count=_MOST_PIXEL_FRAMES)]
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MediaError(f"'{file}' is not an array of numbers: {error}") from error
    return list(array) if array.ndim == 5 else [array]


def _checked(clip: npt.NDArray[Any], file: Path, model: Model) -> Latents:
    g = model.manifest.geometry
    if clip.dtype == np.uint8:
        if model.codec is None:
            raise CalibrationError(f"'{file}' contains pictures, and the bundle has no codec; give latents")
        wanted: tuple[int, ...] = (*model.codec.picture_size, 3)
    else:
        wanted = g.latent_shape
    if clip.ndim != 4 or clip.shape[1:] != wanted or clip.dtype.kind not in "fu":
        raise CalibrationError(
            f"'{file}': wanted clips [n, {', '.join(map(str, wanted))}], "
            f"found {clip.dtype} {list(clip.shape)}; the data is of another model"
        )
    if len(clip) < g.chunk_frames:
        raise CalibrationError(f"'{file}': a clip needs {g.chunk_frames} latent frames or more, found {len(clip)}")
    if clip.dtype == np.uint8:
        assert model.codec is not None
        return model.codec.encode(np.asarray(clip))
    latents = np.ascontiguousarray(clip, np.float32)
    require_finite(latents, f"'{file}'")
    return latents
