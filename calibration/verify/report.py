"""The accuracy report: a self-contained HTML page with verdict, figures, curves, and frames."""

from __future__ import annotations

import datetime
import io
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ... import __version__
from ...reporting import (
    Page,
    Picture,
    Series,
    Table,
    draw_lines,
    judge_figures,
    tabulate_figures,
)
from ..gates import OVER_FP16

if TYPE_CHECKING:
    from ...reporting import (
        Chart,
        Figure,
    )
    from .comparison import Comparison

__all__ = ["render_report"]

_MEANINGS = {
    "free-psnr": "PSNR of latents, free-running, mean over chunks",
    "drift": "late over early error of a free-running rollout",
    "teacher-psnr": "PSNR of latents, teacher-forced, mean over chunks",
    "teacher-relative-l2": "relative L2 error of latents, teacher-forced, mean over chunks",
    "teacher-drift": "late over early error of a teacher-forced rollout",
    "cache-relative-l2": "relative L2 error of K and V that a cache fill writes, mean over chunks",
    "free-picture-psnr": "PSNR of decoded pictures, free-running, mean over chunks",
    "teacher-picture-psnr": "PSNR of decoded pictures, teacher-forced, mean over chunks",
    "free-picture-ssim": "SSIM of decoded pictures, free-running, mean over chunks",
    "teacher-picture-ssim": "SSIM of decoded pictures, teacher-forced, mean over chunks",
    "largest-fp16": "largest value of an FP16 tensor",
    OVER_FP16: "free-running drift over that of FP16 from the same seeds",
}
# By metric: the title of its chart, and whether its axis starts at 0. Metrics near 1 are shown as 1 minus the value.
_CHARTS = {
    "psnr": ("PSNR of latents, dB", False),
    "relative_l2": ("Relative L2 error of latents", True),
    "cosine": ("1 − cosine of latents", True),
    "max_error": ("Largest error of a latent", True),
    "picture_psnr": ("PSNR of pictures, dB", False),
    "picture_ssim": ("1 − SSIM of pictures", True),
}
_MODES = (
    "Free-running: each model continues from its own chunks. Teacher-forced: each chunk is made from the reference's "
    "cache, so that errors do not accumulate."
)
# Amplification of pixel differences, to make them visible.
_GAIN = 8
_FRAMES_PER_ROW = 10


def render_report(title: str, facts: Mapping[str, str], comparison: Comparison, figures: Sequence[Figure]) -> str:
    """Return the page.

    Args:
        title: Title of the page.
        facts: Further facts by name.
        comparison: The comparison's result.
        figures: Measured figures, with their limits if any.
    """
    explained = [one if one.meaning else _explain(one) for one in figures]
    page = Page(title, subtitle=_subtitle(facts), verdict=judge_figures(explained))
    page.add_section("Figures", tabulate_figures(explained))
    page.add_section("By autoregressive step", *_draw_curves(comparison), text=_MODES)
    if comparison.frames is not None:
        pictures = _show_frames(*comparison.frames)
        page.add_section(
            "The last pixel frame of each chunk", *pictures, text=f"First rollout, {_FRAMES_PER_ROW} a row."
        )
    rows = [[name, value] for name, value in facts.items()]
    page.add_section("What was compared", Table(["", ""], rows, words=True, name="facts", title="What was compared"))
    return page.render()


def _subtitle(facts: Mapping[str, str]) -> list[str]:
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    where = (
        f"vdmrt {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}, {date}"
    )
    return [", ".join(facts[name] for name in ("bundle", "rollouts") if name in facts), where]


def _explain(figure: Figure) -> Figure:
    unit = "dB" if figure.name.endswith("psnr") else ""
    return figure._replace(unit=figure.unit or unit, meaning=_MEANINGS.get(figure.name, ""))


def _draw_curves(comparison: Comparison) -> Iterator[Chart]:
    for name, (title, from_zero) in _CHARTS.items():
        if name not in comparison.free:
            continue
        flip = title.startswith("1 −")
        sides = (("free-running", "tone-b", comparison.free), ("teacher-forced", "tone-a", comparison.teacher))
        lines = [
            Series(side, tone, [max(1 - value, 0.0) for value in curves[name]] if flip else curves[name])
            for side, tone, curves in sides
            if name in curves
        ]
        yield _draw(lines, title, from_zero=from_zero)
    if comparison.cache:
        yield _draw([Series("cache fill, on the reference's latents", "tone-c", comparison.cache)],
                    "Relative L2 error of K and V")  # fmt: skip


def _draw(lines: Sequence[Series], title: str, *, from_zero: bool = True) -> Chart:
    x = [float(number) for number in range(1, len(lines[0].values) + 1)]
    return draw_lines(lines, x=x, title=title, x_title="chunk", from_zero=from_zero)


def _show_frames(reference: npt.NDArray[np.uint8], measured: npt.NDArray[np.uint8]) -> Iterator[Picture]:
    difference = np.abs(reference.astype(np.int16) - measured)
    amplified = np.minimum(_GAIN * difference, 255).astype(np.uint8)
    rows = {
        "Reference": reference,
        "Measured, free-running": measured,
        f"Absolute difference (at most {difference.max()} of 255), shown {_GAIN} times as large": amplified,
    }
    for title, frames in rows.items():
        yield Picture(title, _encode(frames))


def _encode(frames: npt.NDArray[np.uint8]) -> bytes:
    """Return pixel frames [count, height, width, 3], ten in a row, as a PNG file."""
    from PIL import Image

    blank = np.full((-len(frames) % _FRAMES_PER_ROW, *frames.shape[1:]), 255, np.uint8)
    padded = np.concatenate([frames, blank]) if len(frames) > _FRAMES_PER_ROW else frames
    rows = [np.concatenate(list(row), axis=1) for row in _cut(padded)]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(file, "PNG", optimize=True)
    return file.getvalue()


def _cut(frames: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    for first in range(0, len(frames), _FRAMES_PER_ROW):
        yield frames[first : first + _FRAMES_PER_ROW]
