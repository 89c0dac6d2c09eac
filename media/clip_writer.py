"""Writers of clips, latents and contact sheets; all files are written atomically."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..bundle import PartFile, check_writable, explained_writing, replaced_file, uninterrupted
from ..errors import MediaError
from .encoders import (
    LatentsEncoder,
    VideoEncoder,
    require_pictures,
)

if TYPE_CHECKING:
    from .encoders import (
        Encoder,
    )

__all__ = ["ClipWriter", "check_output", "write_clip", "write_contact_sheet", "write_latents"]

CLIP_SUFFIXES = (".mp4", ".gif")
LATENTS_SUFFIXES = (".npy",)
WRITER_SUFFIXES = CLIP_SUFFIXES + LATENTS_SUFFIXES

_CHUNK_LENGTH = 16  # frames of a whole clip between two checks for Ctrl-C
_BORDER = 4  # pixels around each picture of a contact sheet
_GIVEN_COLOUR, _MADE_COLOUR = (255, 140, 0), (24, 24, 24)


class ClipWriter:
    """Writer of a clip, chunk by chunk; Ctrl-C keeps the frames written so far.

    The suffix of ``path`` selects the format: ``.mp4`` (H.264) and ``.gif`` take pixel frames, ``.npy`` takes latents.
    The file is written beside ``path`` under another name. A context manager finishes and renames it when the block
    ends or is interrupted by KeyboardInterrupt; any other exception removes it. Without pictures no file is
    written.

    Attributes:
        path: The target.
    """

    def __init__(self, path: str | Path, *, frames_per_second: float = 8.0) -> None:
        """Check that the target can be written, and open a part beside it.

        Args:
            path: The target; an existing file is replaced at the end.
            frames_per_second: Frame rate of the clip; ignored for latents.

        Raises:
            MediaError: The suffix is unknown, or the folder is missing or not writable.
            ValueError: ``frames_per_second`` is not positive and finite.
        """
        if not 0 < frames_per_second < math.inf:
            raise ValueError(f"frames_per_second must be positive and finite, got {frames_per_second!r}")
        self.path = Path(path)
        target = check_output(self.path)
        rate = Fraction(frames_per_second).limit_denominator(1001)
        with self._explained():
            self._part = PartFile(target)
        try:
            self._encoder = _encoder_for(self.path.suffix.lower(), self._part.file, rate)
        except BaseException:
            self._part.discard()
            raise
        self._closed = False

    @property
    def count(self) -> int:
        """Number of pixel frames, or latent frames, appended so far."""
        return self._encoder.count

    def append(self, pictures: npt.NDArray[Any]) -> None:
        """Write the next pixel frames or latent frames; Ctrl-C and SIGTERM are deferred until all are written.

        Args:
            pictures: For ``.mp4`` and ``.gif`` RGB uint8, [n, height, width, 3]; for ``.npy`` floating,
                [n, channels, height, width], stored as float32. Only n may differ between calls. Not kept.

        Raises:
            MediaError: The disk is full, the encoder failed, or a latent is not finite; the file is removed.
            RuntimeError: The writer is closed.
            ValueError: Wrong dtype or shape.
        """
        if self._closed:
            raise RuntimeError(f"the writer of '{self.path}' is closed")
        try:
            with self._explained(), uninterrupted():
                self._encoder.append(pictures)
        except MediaError:
            self.discard()
            raise

    def close(self) -> None:
        """Finish the file and rename it to the target. Closing twice is allowed.

        Raises:
            MediaError: The disk is full, or the target cannot be replaced; nothing is left.
        """
        if self._closed:
            return
        try:
            if self.count > 0:
                with self._explained(), uninterrupted():
                    self._encoder.finish()
                    self._part.keep()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the unfinished file, without an error. Does nothing after :meth:`close`."""
        if not self._closed:
            with uninterrupted():
                self._closed = True
                self._encoder.abandon()
                self._part.discard()

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close()
        else:
            self.discard()

    def _explained(self) -> AbstractContextManager[None]:
        return explained_writing(self.path, fail=MediaError)


def check_output(path: str | Path, *, suffixes: tuple[str, ...] = WRITER_SUFFIXES) -> Path:
    """Check that an output path can be written, and return the file behind its links.

    Raises:
        MediaError: The suffix is not in ``suffixes``, the path is not a regular file, or its folder is missing or not
            writable.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in suffixes:
        raise MediaError(f"'{path}' must end in {' or '.join(suffixes)}, got suffix {suffix!r}")
    return check_writable(path, fail=MediaError)


def write_clip(path: str | Path, pictures: npt.NDArray[np.uint8], *, frames_per_second: float) -> None:
    """Write a whole clip, ``.mp4`` or ``.gif``; on any failure, including Ctrl-C, nothing is left.

    H.264 pictures need even sides: an odd one repeats its last row or column.

    Args:
        path: The target.
        pictures: RGB, [n, height, width, 3].
        frames_per_second: Frame rate of the clip.

    Raises:
        MediaError: The suffix is wrong, the folder is missing or not writable, or the disk is full.
        ValueError: Wrong dtype or shape, or ``frames_per_second`` is not positive and finite.
    """
    check_output(path, suffixes=CLIP_SUFFIXES)
    _write_whole(ClipWriter(path, frames_per_second=frames_per_second), pictures)


def write_latents(path: str | Path, latents: npt.NDArray[np.floating[Any]]) -> None:
    """Write latents as a float32 ``.npy``; on any failure, including Ctrl-C, nothing is left.

    Args:
        path: The target.
        latents: [latent frames, channels, height, width].

    Raises:
        MediaError: The suffix is wrong, the folder is missing or not writable, the disk is full, or a
            latent is not finite.
        ValueError: Wrong dtype or shape.
    """
    check_output(path, suffixes=LATENTS_SUFFIXES)
    _write_whole(ClipWriter(path), latents)


def write_contact_sheet(path: str | Path, pictures: npt.NDArray[np.uint8], *, given: int) -> None:
    """Write all pictures in one grid, row by row, as a ``.png``.

    Args:
        path: The target.
        pictures: RGB, [n, height, width, 3].
        given: Number of given (not generated) pictures at the start; their border is orange, the others' dark.

    Raises:
        MediaError: The suffix is wrong, the folder is missing or not writable, or the disk is full.
        ValueError: Wrong dtype or shape, or not 0 <= given <= n.
    """
    from PIL import Image

    path = Path(path)
    check_output(path, suffixes=(".png",))
    require_pictures(pictures)
    if not 0 <= given <= len(pictures):
        raise ValueError(f"given must be 0 to {len(pictures)}, got {given!r}")
    sheet = Image.fromarray(_lay_out(pictures, given))
    with replaced_file(path, fail=MediaError) as file:
        sheet.save(file, format="PNG")


def _lay_out(pictures: npt.NDArray[np.uint8], given: int) -> npt.NDArray[np.uint8]:
    count, height, width, _ = pictures.shape
    columns = math.ceil(math.sqrt(count))
    cell_height, cell_width = height + 2 * _BORDER, width + 2 * _BORDER
    sheet = np.zeros((math.ceil(count / columns) * cell_height, columns * cell_width, 3), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * cell_height, (index % columns) * cell_width
        cell = sheet[top : top + cell_height, left : left + cell_width]
        cell[:] = _GIVEN_COLOUR if index < given else _MADE_COLOUR
        cell[_BORDER:-_BORDER, _BORDER:-_BORDER] = picture
    return sheet


def _write_whole(writer: ClipWriter, pictures: npt.NDArray[Any]) -> None:
    try:
        for start in range(0, max(1, len(pictures)), _CHUNK_LENGTH):  # at least once, to reject an empty array
            writer.append(pictures[start : start + _CHUNK_LENGTH])
        writer.close()
    finally:
        writer.discard()


def _encoder_for(suffix: str, file: BinaryIO, rate: Fraction) -> Encoder:
    if suffix == ".npy":
        return LatentsEncoder(file)
    if suffix == ".gif":
        return VideoEncoder(file, container="gif", codec="gif", rate=rate)
    return VideoEncoder(file, container="mp4", codec="libx264", rate=rate)
