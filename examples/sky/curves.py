"""Loss curves as a small picture, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

__all__ = ["draw_curves"]

_WIDTH, _HEIGHT, _MARGIN = 640, 240, 40
_COLOURS = ("#1f5fa8", "#c8562b", "#3a8a4d", "#7a4f9a", "#888888")


def draw_curves(
    path: Path,
    curves: Mapping[str, Sequence[float]],
    *,
    title: str,
    logarithmic: bool = False,
    smooth: int = 1,
) -> None:
    """Draw curves over their index and write them as PNG.

    Args:
        path: The picture.
        curves: Values by name; lengths may differ, each curve has the full width.
        title: Title of the picture.
        logarithmic: Whether the vertical axis is logarithmic; values must be positive then.
        smooth: Length of a running mean, in values.
    """
    values = {
        name: _running_mean(np.asarray(curve, np.float64), smooth) for name, curve in curves.items() if len(curve)
    }
    if logarithmic:
        values = {name: np.log10(np.maximum(curve, 1e-9)) for name, curve in values.items()}
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, 8), title, fill="black")
    draw.rectangle((_MARGIN, 28, _WIDTH - 10, _HEIGHT - 24), outline="#cccccc")
    if values:
        low = min(float(curve.min()) for curve in values.values())
        high = max(float(curve.max()) for curve in values.values())
        _label_axis(draw, low, high, max(len(curve) for curve in curves.values()), logarithmic)
        for curve, color in zip(values.values(), _COLOURS * len(values), strict=False):
            draw.line(_place(curve, low, high), fill=color, width=2)
        _write_legend(draw, list(values))
    image.save(path, optimize=True)


def _running_mean(values: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.float64]:
    length = max(1, min(length, len(values)))
    return np.convolve(values, np.ones(length) / length, mode="valid")


def _place(curve: npt.NDArray[np.float64], low: float, high: float) -> list[tuple[float, float]]:
    across = np.linspace(_MARGIN, _WIDTH - 10, len(curve))
    up = _HEIGHT - 24 - (curve - low) / max(high - low, 1e-12) * (_HEIGHT - 52)
    return list(zip(across.tolist(), up.tolist(), strict=True))


def _label_axis(draw: ImageDraw.ImageDraw, low: float, high: float, count: int, logarithmic: bool) -> None:
    for value, up in ((high, 28), (low, _HEIGHT - 36)):
        draw.text((2, up), f"{10**value if logarithmic else value:.3g}", fill="black")
    draw.text((_WIDTH - 60, _HEIGHT - 18), f"{count}", fill="black")


def _write_legend(draw: ImageDraw.ImageDraw, names: list[str]) -> None:
    for place, (name, color) in enumerate(zip(names, _COLOURS * len(names), strict=False)):
        draw.text((_MARGIN + 8 + 130 * place, _HEIGHT - 18), name, fill=color)
