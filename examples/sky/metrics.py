"""What is measured on pictures: likeness, displacement, and what an oracle that knows the wind would say."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["displacement", "is_same_direction", "psnr", "shift_picture"]

# Rows above the hills, and how far apart the compared frames are.
_SKY_ROWS = 48
_APART = 4

Pictures = npt.NDArray[np.uint8]


def psnr(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Return the peak signal-to-noise ratio in dB over everything given, 8 bit levels."""
    error = np.mean((found.astype(np.float64) - wanted.astype(np.float64)) ** 2)
    return float(10 * np.log10(255.0**2 / max(float(error), 1e-12)))


def displacement(clip: Pictures) -> tuple[float, float]:
    """Measure pixels per frame that the clouds of a clip move, down and right, by phase correlation.

    The normalised cross spectra of all pairs of frames four apart are added up, so that what they agree on stands out.
    """
    grey = clip[:, :_SKY_ROWS].astype(np.float64).mean(axis=-1)
    # What stands still, sky and sun, would be found as no motion.
    grey = grey - grey.mean(axis=0)
    window = np.hanning(grey.shape[1])[:, None] * np.hanning(grey.shape[2])[None]
    spectra = np.fft.fft2(grey * window)
    cross = spectra[_APART:] * spectra[:-_APART].conj()
    rows, columns = cross.shape[1:]
    # Clouds have nothing at high frequencies: what is there would only be noise.
    low = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None]) < 0.125
    surface = np.fft.ifft2((cross / (np.abs(cross) + 1e-9)).sum(axis=0) * low).real
    down, right = np.unravel_index(int(surface.argmax()), surface.shape)
    signed = ((int(down) + rows // 2) % rows - rows // 2, (int(right) + columns // 2) % columns - columns // 2)
    return signed[0] / _APART, signed[1] / _APART


def is_same_direction(found: tuple[float, float], wanted: tuple[float, float]) -> bool:
    """Whether two displacements lie within 45 degrees of each other; no motion has no direction."""
    along = found[0] * wanted[0] + found[1] * wanted[1]
    return bool(along > np.cos(np.pi / 4) * np.hypot(*found) * np.hypot(*wanted))


def shift_picture(picture: Pictures, down: float, right: float) -> npt.NDArray[np.float64]:
    """Move a picture, bilinear between pixels; its edge is repeated where nothing is known."""
    moved = _shift_axis(picture.astype(np.float64), down, 0)
    return _shift_axis(moved, right, 1)


def _shift_axis(picture: npt.NDArray[np.float64], by: float, axis: int) -> npt.NDArray[np.float64]:
    last = picture.shape[axis] - 1
    places = np.clip(np.arange(last + 1) - by, 0, last)
    before = np.floor(places).astype(np.int64)
    share = (places - before).reshape([-1 if place == axis else 1 for place in range(picture.ndim)])
    after = np.minimum(before + 1, last)
    blended: npt.NDArray[np.float64] = picture.take(before, axis) * (1 - share) + picture.take(after, axis) * share
    return blended
