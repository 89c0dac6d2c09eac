"""Reading of pictures, clips and latents, in the shapes that a session takes."""

from __future__ import annotations

import itertools
import math
import os
import struct
import tokenize
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from ..errors import MediaError, TensorMismatchError

if TYPE_CHECKING:
    from av import VideoFrame
    from PIL.Image import Image

__all__ = ["fit_pictures", "read_clip", "read_latents", "read_picture"]

# Pillow and FFmpeg support formats that run programs (EPS) or open further files and addresses (HLS playlists):
# only these formats are tried.
_PICTURE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_CLIP_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif"

_PICTURE, _CLIP, _LATENTS = "a picture", "a clip", "an array of latents"
_WANTED = {
    _PICTURE: "PNG, JPEG, WebP, BMP, TIFF or GIF",
    _CLIP: "MP4, MOV, WebM, Matroska, AVI or GIF",
    _LATENTS: "a .npy file as numpy.save writes it",
}
# Offset, magic bytes, the format, and what it can be read as.
_MAGIC = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture", (_PICTURE,)),
    (0, b"\xff\xd8\xff", "a JPEG picture", (_PICTURE,)),
    (8, b"WEBP", "a WebP picture", (_PICTURE,)),
    (0, b"BM", "a BMP picture", (_PICTURE,)),
    (0, b"II*\x00", "a TIFF picture", (_PICTURE,)),
    (0, b"MM\x00*", "a TIFF picture", (_PICTURE,)),
    (0, b"GIF8", "a GIF", (_PICTURE, _CLIP)),
    (4, b"ftyp", "an MP4 clip", (_CLIP,)),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska clip", (_CLIP,)),
    (8, b"AVI ", "an AVI clip", (_CLIP,)),
    (0, b"\x93NUMPY", "a NumPy array", (_LATENTS,)),
    (0, b"PK\x03\x04", "a zip archive (as .npz is)", ()),
    (0, b"\x80", "a pickle", ()),
)


def read_picture(path: str | Path, *, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Read a picture as one pixel frame of a given size.

    The picture is rotated by its EXIF orientation, center-cropped to the aspect ratio, then resized with
    antialiasing.

    Args:
        path: PNG, JPEG, WebP, BMP, TIFF or GIF (its first picture), 8 bits a channel; alpha is dropped.
        height: Pixels.
        width: Pixels.

    Returns:
        RGB, [1, height, width, 3].

    Raises:
        MediaError: The file is missing, unreadable, not a picture, truncated, or too large to be safe.
        ValueError: A size is not positive.
    """
    _require_positive(height=height, width=width)
    with _open(path) as file:
        return np.stack([_fit(_decode_picture(file, path), height, width)])


def read_clip(path: str | Path, *, height: int, width: int, count: int) -> npt.NDArray[np.uint8]:
    """Read the first pixel frames of a clip, each fitted as by :func:`read_picture`.

    Args:
        path: MP4, MOV, WebM, Matroska, AVI or GIF; its first video stream is read, and rotated by its metadata.
        height: Pixels.
        width: Pixels.
        count: Maximum number of pixel frames; a shorter clip returns fewer.

    Returns:
        RGB, [n, height, width, 3] with 1 <= n <= count.

    Raises:
        MediaError: The file is missing, unreadable, not a clip, empty, or truncated before ``count``.
        ValueError: A number is not positive.
    """
    _require_positive(height=height, width=width, count=count)
    with _open(path) as file:
        pictures = _decode_clip(file, path, height, width, count)
    if not pictures:
        raise MediaError(f"'{path}' contains no pixel frame")
    return np.stack(pictures)


def read_latents(path: str | Path) -> npt.NDArray[np.float32]:
    """Read latents from a ``.npy`` file. Nothing is unpickled.

    The header is compared with the length of the file before any memory is allocated.

    Returns:
        [latent frames, channels, height, width], converted from float16 or float64 if necessary.

    Raises:
        MediaError: The file is missing, unreadable, not such an array, truncated, or contains NaN or infinity.
    """
    with _open(path) as file:
        shape, order, dtype = _read_header(file, path)
        count = math.prod(shape)
        found_nbytes = os.fstat(file.fileno()).st_size - file.tell()
        if found_nbytes < count * dtype.itemsize:
            raise MediaError(
                f"'{path}' is truncated: {list(shape)} of {dtype} needs {count * dtype.itemsize} bytes, "
                f"got {found_nbytes}"
            )
        latents = np.fromfile(file, dtype, count).reshape(shape, order=order)
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is rejected below
        converted = np.ascontiguousarray(latents, np.float32)
    require_finite(converted, f"'{path}'")
    return converted


def fit_pictures(pictures: Iterable[npt.NDArray[np.uint8]], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Center-crop pictures to an aspect ratio and resize them with antialiasing, as ``vdmrt run`` does.

    Args:
        pictures: RGB, uint8 [n, height, width, 3], or several [height, width, 3] of any sizes.
        size: Height and width in pixels: ``model.codec.picture_size``.

    Returns:
        RGB, [n, height, width, 3], as :meth:`Session.start` takes them.

    Raises:
        TensorMismatchError: There is no picture, or one has another dtype or shape.
        ValueError: A size is not positive.
    """
    from PIL import Image

    height, width = size
    _require_positive(height=height, width=width)
    fitted = []
    for number, picture in enumerate(pictures):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            wanted = "wanted uint8 [n, height, width, 3]"
            found = f"{picture.dtype} {list(picture.shape)}"
            raise TensorMismatchError("pictures", f"{wanted}, found {found} as picture {number}")
        fitted.append(_fit(Image.fromarray(np.ascontiguousarray(picture)), height, width))
    if not fitted:
        raise TensorMismatchError("pictures", "wanted at least 1 picture, found none")
    return np.stack(fitted)


def require_finite(latents: npt.NDArray[np.float32], what: str) -> None:
    """Check that latents are finite; ``what`` names them in the message.

    Raises:
        MediaError: They contain NaN or infinity; the message has their number and the first position.
    """
    finite = np.isfinite(latents)
    if finite.all():
        return
    first = [int(index) for index in np.argwhere(~finite)[0]]
    raise MediaError(
        f"{what}: {np.count_nonzero(~finite)} of {latents.size} values are NaN or infinite, first at {first}"
    )


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number!r}")


def _open(path: str | Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError as e:
        raise MediaError(f"'{path}' does not exist") from e
    except OSError as e:
        if os.path.isdir(path):
            raise MediaError(f"'{path}' is a folder; give the path of a file") from e
        raise MediaError(f"'{path}' cannot be read: {e.strerror}") from e


def _fit(picture: Image, height: int, width: int) -> npt.NDArray[np.uint8]:
    from PIL import (
        Image,
        ImageOps,
    )  # imported late throughout this module: a session that reads no media needs only numpy

    return np.asarray(ImageOps.fit(picture, (width, height), method=Image.Resampling.BICUBIC))


def _decode_picture(file: BinaryIO, path: str | Path) -> Image:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a corrupt EXIF block or odd palette does not change the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_PICTURE_FORMATS) as picture:
                if picture.mode[0] in "IF":  # Pillow clips these to 255 instead of scaling them
                    raise MediaError(f"'{path}' has pixels of mode {picture.mode!r}; save it with 8 bits a channel")
                return ImageOps.exif_transpose(picture).convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as e:
        raise MediaError(f"'{path}' is too large to be decoded safely: {e}") from e
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as e:
        raise _undecodable(file, path, _PICTURE, e) from e


def _decode_clip(file: BinaryIO, path: str | Path, height: int, width: int, count: int) -> list[npt.NDArray[np.uint8]]:
    import av
    from av.error import FFmpegError

    options = {"format_whitelist": _CLIP_FORMATS}
    try:
        with av.open(file, mode="r", options=options, metadata_errors="replace") as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise MediaError(f"'{path}' has no video stream")
            if stream.codec_context is None:  # PyAV before 18.1 crashes on decoding such a stream
                raise MediaError(f"'{path}' has a video stream in a codec that this PyAV does not know")
            frames = itertools.islice(container.decode(stream), count)
            return [_fit(_upright(frame), height, width) for frame in frames]
    except (FFmpegError, OSError) as e:
        raise _undecodable(file, path, _CLIP, e) from e


def _upright(frame: VideoFrame) -> Image:
    from PIL import Image

    # PyAV 12 does not report a frame's rotation.
    quarter_turns = getattr(frame, "rotation", 0) // 90
    return Image.fromarray(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns)))


def _read_header(file: BinaryIO, path: str | Path) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    npy = np.lib.format
    try:
        # Version 3 differs only by non-ASCII field names, and latents have no fields.
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(file)]
        shape, is_fortran, dtype = read(file)
    except (ValueError, KeyError, SyntaxError, tokenize.TokenError) as e:
        raise _undecodable(file, path, _LATENTS, e) from e
    if dtype.hasobject:
        raise MediaError(f"'{path}' contains pickled Python objects, which are never loaded")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise MediaError(f"'{path}' contains {dtype}, latents are float16, float32 or float64")
    if len(shape) != 4 or min(shape) < 1:
        raise MediaError(f"'{path}' has shape {list(shape)}, latents are [latent frames, channels, height, width]")
    return shape, "F" if is_fortran else "C", dtype


def _undecodable(file: BinaryIO, path: str | Path, wanted: str, error: Exception) -> MediaError:
    file.seek(0)
    start = file.read(16)
    if not start:
        return MediaError(f"'{path}' is empty, wanted {wanted}")
    for offset, magic, what, readable_as in _MAGIC:
        if start.startswith(magic, offset):
            if wanted in readable_as:
                return MediaError(f"'{path}' is truncated or damaged: it starts as {what}, then: {error}")
            return MediaError(f"'{path}' is not {wanted} but {what}; give {_WANTED[wanted]}")
    return MediaError(f"'{path}' is not {wanted}: it starts with {start!r}; give {_WANTED[wanted]}")
