"""Pictures, clips and latents read from files, in the shapes that a session takes."""

from __future__ import annotations

import itertools
import math
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import MediaError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["read_clip", "read_latents", "read_picture"]

# Pillow and FFmpeg know formats that run programs (EPS) or open further files and addresses (HLS playlists):
# only these are tried, whatever the file says it is.
_PICTURE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_CLIP_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif"

_PICTURE, _CLIP, _LATENTS = "a picture", "a clip", "an array of latents"
_WANTED = {
    _PICTURE: "PNG, JPEG, WebP, BMP, TIFF or GIF",
    _CLIP: "MP4, MOV, WebM, Matroska, AVI or GIF",
    _LATENTS: "a .npy file as numpy.save writes it",
}
# Offset, magic bytes, what that is, and what it can be read as.
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
    """Read a picture as one pixel frame of the wanted size.

    Turned upright by its EXIF orientation, cut about its centre to the wanted aspect, then resized with antialiasing.

    Args:
        path: PNG, JPEG, WebP, BMP, TIFF or GIF (its first picture), of 8 bits a channel; transparency is dropped.
        height: Pixels.
        width: Pixels.

    Returns:
        RGB, [1, height, width, 3].

    Raises:
        MediaError: The file is missing, unreadable, not a picture, cut short, or too large to be safe.
        ValueError: A size is not positive.
    """
    _require_positive(height=height, width=width)
    with _open(path) as file:
        return np.stack([_fit(_decode_picture(file, path), height, width)])


def read_clip(path: str | Path, *, height: int, width: int, count: int) -> npt.NDArray[np.uint8]:
    """Read the first pixel frames of a clip, each fitted as :func:`read_picture` does it.

    Args:
        path: MP4, MOV, WebM, Matroska, AVI or GIF; its first video stream is read, and turned as it asks for.
        height: Pixels.
        width: Pixels.
        count: Most pixel frames to read; a shorter clip gives fewer.

    Returns:
        RGB, [n, height, width, 3] with 1 <= n <= count.

    Raises:
        MediaError: The file is missing, unreadable, not a clip, without pixel frames, or cut short before ``count``.
        ValueError: A number is not positive.
    """
    from PIL import Image  # heavy: see the layering rule, `import vdmrt.runtime` loads numpy alone

    _require_positive(height=height, width=width, count=count)
    with _open(path) as file:
        pictures = [_fit(Image.fromarray(p), height, width) for p in _decode_clip(file, path, count)]
    if not pictures:
        raise MediaError(f"'{path}' holds no pixel frame")
    return np.stack(pictures)


def read_latents(path: str | Path) -> npt.NDArray[np.float32]:
    """Read latents from a ``.npy`` file. Nothing is unpickled.

    The header is held against the length of the file before any memory is taken.

    Returns:
        [latent frames, channels, height, width], converted from float16 or float64 where need be.

    Raises:
        MediaError: The file is missing, unreadable, not such an array, cut short, or holds NaN or infinity.
    """
    with _open(path) as file:
        shape, order, dtype = _read_header(file, path)
        count = math.prod(shape)
        found_nbytes = os.fstat(file.fileno()).st_size - file.tell()
        if found_nbytes < count * dtype.itemsize:
            raise MediaError(
                f"'{path}' is cut short: shape {list(shape)} of {dtype} needs {count * dtype.itemsize} bytes, "
                f"{found_nbytes} were found"
            )
        latents = np.fromfile(file, dtype, count).reshape(shape, order=order)
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as such
        converted = np.ascontiguousarray(latents, np.float32)
    require_finite(converted, path)
    return converted


def require_finite(latents: npt.NDArray[np.float32], path: str | Path) -> None:
    """Refuse latents that hold NaN or infinity.

    Raises:
        MediaError: They do; says how many and where the first is.
    """
    finite = np.isfinite(latents)
    if finite.all():
        return
    first = [int(index) for index in np.argwhere(~finite)[0]]
    raise MediaError(
        f"'{path}': {np.count_nonzero(~finite)} of {latents.size} values are NaN or infinite, the first at {first}"
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
        if Path(path).is_dir():
            raise MediaError(f"'{path}' is a folder, a file was wanted") from e
        raise MediaError(f"'{path}' cannot be read: {e.strerror}") from e


def _fit(picture: Image, height: int, width: int) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(picture, (width, height), method=Image.Resampling.BICUBIC))


def _decode_picture(file: BinaryIO, path: str | Path) -> Image:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a corrupt EXIF block or odd palette leaves the pixels what they are
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_PICTURE_FORMATS) as picture:
                if picture.mode[0] in "IF":  # Pillow clips these to 255 instead of scaling them
                    raise MediaError(f"'{path}' has pixels of mode {picture.mode!r}; save it with 8 bits a channel")
                return ImageOps.exif_transpose(picture).convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as e:
        raise MediaError(f"'{path}' is too large to be decoded safely: {e}") from e
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as e:
        raise _undecodable(file, path, _PICTURE, e) from e


def _decode_clip(file: BinaryIO, path: str | Path, count: int) -> list[npt.NDArray[np.uint8]]:
    import av

    try:
        with av.open(
            file, options={"format_whitelist": _CLIP_FORMATS}, metadata_errors="replace"
        ) as container:
            if not container.streams.video:
                raise MediaError(f"'{path}' has no video stream")
            frames = itertools.islice(container.decode(container.streams.video[0]), count)
            return [_upright(frame) for frame in frames]
    except (av.FFmpegError, OSError) as e:
        raise _undecodable(file, path, _CLIP, e) from e
