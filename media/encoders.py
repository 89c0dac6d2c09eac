"""Encoders of pixel frames or latent frames to an open file, chunk by chunk."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

import numpy as np
import numpy.typing as npt

from ..errors import MediaError
from .pictures import require_finite

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video import VideoStream

__all__ = ["Encoder", "LatentsEncoder", "VideoEncoder", "require_pictures"]


class Encoder(Protocol):
    """Interface of the encoders of a clip writer. An encoder never closes the file.

    ``append`` checks its array first, so that a ValueError leaves the file unchanged.
    """

    @property
    def count(self) -> int:
        """Number of frames appended so far."""
        ...

    def append(self, pictures: npt.NDArray[Any]) -> None:
        """Write the next frames, all of one shape."""

    def finish(self) -> None:
        """Write the end of the file, after at least one frame."""

    def abandon(self) -> None:
        """Release the encoder's memory, without an error."""


class VideoEncoder:
    """H.264 in MP4, or GIF with one palette a picture.

    Attributes:
        count: Pixel frames appended so far.
    """

    def __init__(self, file: BinaryIO, *, container: str, codec: str, rate: Fraction) -> None:
        """Open ``container`` ("mp4" or "gif") on ``file`` for ``codec`` ("libx264" or "gif").

        Raises:
            MediaError: This PyAV lacks the codec.
        """
        import av  # late, because a session that writes no clip needs only numpy

        if codec not in av.codecs_available:
            raise MediaError(f"this PyAV has no encoder {codec!r}: write a .gif, or reinstall PyAV by pip")
        self.count = 0
        self._container = av.open(file, "w", format=container)
        self._codec = codec
        self._rate = rate
        self._stream: VideoStream | None = None
        self._shape: tuple[int, ...] = ()

    def append(self, pictures: npt.NDArray[Any]) -> None:
        """Encode RGB uint8 [n, height, width, 3].

        Raises:
            MediaError: The encoder rejects pictures of this size.
            ValueError: Wrong dtype, or another shape than before.
        """
        require_pictures(pictures)
        _require_shape(pictures, self._shape)
        if self._stream is None:
            self._stream = self._add_stream(*pictures.shape[1:3])
            self._shape = pictures.shape[1:]
        for picture in pictures:
            frame = _frame_for_gif(picture) if self._codec == "gif" else _frame_for_h264(picture)
            frame.pts = self.count
            self._encode(self._stream, frame)
            self.count += 1

    def finish(self) -> None:
        """Flush the encoder and write the index."""
        if self._stream is not None:
            self._encode(self._stream, None)
        self._container.close()

    def abandon(self) -> None:
        """Close the container, which tries to write its index and may fail on a full disk."""
        from av.error import FFmpegError

        with suppress(FFmpegError, OSError):
            self._container.close()

    def _add_stream(self, height: int, width: int) -> VideoStream:
        options = {"crf": "18"} if self._codec == "libx264" else {}
        stream = cast("VideoStream", self._container.add_stream(self._codec, rate=self._rate, options=options))
        stream.width, stream.height, stream.pix_fmt = width, height, "pal8"
        if self._codec == "libx264":
            stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
            # FFmpeg converts RGB with the matrix of BT.601; without a tag, players assume BT.709 for large pictures.
            context = stream.codec_context
            context.colorspace, context.color_primaries, context.color_trc, context.color_range = 6, 1, 13, 1
        return stream

    def _encode(self, stream: VideoStream, frame: VideoFrame | None) -> None:
        from av.error import FFmpegError

        try:
            self._container.mux(stream.encode(frame))
        except FFmpegError as e:
            height, width = self._shape[:2]
            raise MediaError(f"the encoder {self._codec!r} rejected pictures of {height} x {width} pixels: {e}") from e


class LatentsEncoder:
    """A float32 ``.npy`` file; its header is rewritten at the end, when the number of latent frames is known.

    Attributes:
        count: Latent frames appended so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.count = 0
        self._file = file
        self._shape: tuple[int, ...] = ()

    def append(self, pictures: npt.NDArray[Any]) -> None:
        """Write floating latents [n, channels, height, width].

        Raises:
            MediaError: A value is NaN or infinite as float32.
            ValueError: Wrong dtype, or another shape than before.
        """
        if pictures.dtype.kind != "f" or pictures.ndim != 4 or 0 in pictures.shape:
            raise ValueError(
                f"latents must be floating [n, channels, height, width], got {pictures.dtype} {list(pictures.shape)}"
            )
        _require_shape(pictures, self._shape)
        with np.errstate(over="ignore"):  # an overflow becomes infinite and is rejected below
            latents = np.ascontiguousarray(pictures, "<f4")
        require_finite(latents, "latents")
        if not self._shape:
            self._shape = pictures.shape[1:]
            self._write_header(0)
        self._file.write(latents.data)
        self.count += len(latents)

    def finish(self) -> None:
        """Write the final header."""
        self._file.seek(0)
        self._write_header(self.count)

    def abandon(self) -> None:
        """Do nothing: the encoder holds no memory."""

    def _write_header(self, count: int) -> None:
        # The same length for any count: numpy pads headers to a multiple of 64 bytes, and this one needs 65 to 128.
        shape = (count, *self._shape)
        np.lib.format.write_array_header_1_0(self._file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def require_pictures(pictures: npt.NDArray[Any]) -> None:
    """Check that an array holds pixel frames.

    Raises:
        ValueError: Not uint8 [n, height, width, 3], or empty.
    """
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or 0 in pictures.shape:
        raise ValueError(f"pictures must be uint8 [n, height, width, 3], got {pictures.dtype} {list(pictures.shape)}")


def _require_shape(pictures: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if shape and pictures.shape[1:] != shape:
        raise ValueError(f"the clip has frames of {list(shape)}, got {list(pictures.shape[1:])}")


def _frame_for_h264(picture: npt.NDArray[np.uint8]) -> VideoFrame:
    import av

    height, width, _ = picture.shape
    even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return av.VideoFrame.from_ndarray(even, format="rgb24").reformat(format="yuv420p")


def _frame_for_gif(picture: npt.NDArray[np.uint8]) -> VideoFrame:
    import av
    from PIL import Image

    # FFmpeg's conversion has one fixed palette of 3, 3 and 2 bits; this one is fitted to the picture.
    quantized = Image.fromarray(picture).quantize(256, method=Image.Quantize.MEDIANCUT)
    colors = np.asarray(quantized.getpalette(), np.uint8).reshape(-1, 3)
    palette = np.full((256, 4), 255, np.uint8)  # alpha, red, green, blue
    palette[: len(colors), 1:] = colors
    indices_and_palette: Any = (np.asarray(quantized), palette)  # PyAV's stub lacks the pair that pal8 takes
    return av.VideoFrame.from_ndarray(indices_and_palette, format="pal8")
