"""Similarity metrics: cosine, relative L2, PSNR, largest error, and SSIM of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["compare_latents", "compare_pictures", "psnr", "ssim"]

Array = npt.NDArray[Any]
# Constants of Wang et al. 2004.
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03
# Equal results have an infinite PSNR; this finite value can be averaged.
_BEST_PSNR = 150.0


def compare_latents(found: Array, wanted: Array, peak: float) -> dict[str, float]:
    """Compare latents of any shape.

    Args:
        found: Latents to judge.
        wanted: The reference's latents.
        peak: Peak value of PSNR: the range of the reference's latents.
    """
    one, other = found.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    error = one - other
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return {
        "cosine": float(one @ other) / lengths if lengths else float(np.array_equal(one, other)),
        "relative_l2": float(np.linalg.norm(error) / max(float(np.linalg.norm(other)), 1e-12)),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "psnr": psnr(found, wanted, peak),
        "max_error": float(np.abs(error).max()),
    }


def compare_pictures(found: Array, wanted: Array) -> dict[str, float]:
    """Compare pixel frames, uint8 [n, height, width, 3]: PSNR in dB, and the mean SSIM of their luma."""
    likeness = [ssim(_luma(one), _luma(other)) for one, other in zip(found, wanted, strict=True)]
    return {"picture_psnr": psnr(found, wanted, 255.0), "picture_ssim": float(np.mean(likeness))}


def psnr(found: Array, wanted: Array, peak: float) -> float:
    """Return the peak signal-to-noise ratio in dB, at most 150; 0 where something is NaN or infinite."""
    if not np.isfinite(found).all():
        return 0.0
    error = float(np.mean((found.astype(np.float64) - wanted.astype(np.float64)) ** 2))
    if error == 0:
        return _BEST_PSNR
    return float(min(_BEST_PSNR, 10 * np.log10(max(peak, 1e-12) ** 2 / error)))


def ssim(one: Array, other: Array) -> float:
    """Return the structural similarity of two pictures [height, width] with levels 0 to 255 (Wang et al. 2004)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a, variance_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(likeness / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))))


def _luma(picture: Array) -> Array:
    luma: Array = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return luma


def _blurred(picture: Array) -> Array:
    """Blur with a Gaussian window where it fits entirely; smaller pictures get a smaller one."""
    width = min(_WINDOW, *picture.shape)
    window = np.exp(-((np.arange(width) - (width - 1) / 2) ** 2) / (2 * _SIGMA**2))
    window /= window.sum()
    rows = np.lib.stride_tricks.sliding_window_view(picture, width, axis=0) @ window
    blurred: Array = np.lib.stride_tricks.sliding_window_view(rows, width, axis=1) @ window
    return blurred
