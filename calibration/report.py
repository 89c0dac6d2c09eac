"""The accuracy report: one HTML page that needs nothing else, with curves, figures, gates, and frames side by side."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .charts import line_chart
from .comparison import Comparison
from .gates import Judged

__all__ = ["render_report"]

_PAGE = """<!doctype html>
<meta charset="utf-8"><title>{title}</title>
<style>body{{font:14px sans-serif;max-width:60em;margin:2em auto;color:#222}}td,th{{padding:2px 12px;text-align:left}}
img{{image-rendering:pixelated}}.missed{{color:#b00;font-weight:bold}}</style>
<h1>{title}</h1>
{body}
"""
_CHARTS = (
    ("psnr", "PSNR of latents against the reference", "dB"),
    ("relative_l2", "relative L2 of latents", ""),
    ("cosine", "cosine of latents", ""),
    ("max_error", "largest error of a latent", ""),
    ("picture_psnr", "PSNR of pictures", "dB"),
    ("picture_ssim", "SSIM of pictures", ""),
)


def render_report(
    title: str,
    told: Mapping[str, str],
    comparison: Comparison,
    gates: Sequence[Judged],
    figures: Mapping[str, float],
) -> str:
    """Return the page.

    Args:
        title: What was compared.
        told: Further facts by name.
        comparison: What was found.
        gates: The figures that have a limit.
        figures: The others.
    """
    facts = "".join(f"<tr><th>{html.escape(name)}<td>{html.escape(value)}" for name, value in told.items())
    rows = "".join(
        f"<tr{'' if one.passed else ' class=missed'}><td>{one.figure}<td>{one.measured:.4g}"
        f"<td>{html.escape(one.limit)}<td>{'passed' if one.passed else 'FAILED'}"
        for one in gates
    )
    others = "".join(f"<tr><td>{name}<td>{value:.4g}" for name, value in figures.items())
    body = [
        f"<table>{facts}</table>",
        f"<h2>Gates</h2><table><tr><th>figure<th>measured<th>limit<th>{rows}</table>" if gates else "",
        f"<h2>Figures without a limit</h2><table>{others}</table>",
        "<h2>By autoregressive step</h2><p>Free-running: each side goes on from what it made itself. Teacher-forced: "
        "each chunk is made from the reference's cache, so that nothing accumulates.</p>",
        *(_chart(comparison, *chart) for chart in _CHARTS if chart[0] in comparison.free),
        line_chart(
            {"what a fill writes, on the reference's latents": _points(comparison.cache)},
            title="relative L2 of K and V",
            across="chunk",
            up="",
        ),
    ]
    if comparison.frames is not None:
        body.append("<h2>The last pixel frame of each chunk</h2>")
        body += [
            f"<p>{name}<br>{_picture(frames)}"
            for name, frames in zip(("reference", "measured, free-running"), comparison.frames, strict=True)
        ]
    return _PAGE.format(title=html.escape(title), body="\n".join(body))


def _chart(comparison: Comparison, name: str, title: str, unit: str) -> str:
    curves = {"free-running": _points(comparison.free[name]), "teacher-forced": _points(comparison.teacher[name])}
    return line_chart(curves, title=title, across="chunk", up=unit)


def _points(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(place + 1), value) for place, value in enumerate(values)]


def _picture(frames: npt.NDArray[np.uint8]) -> str:
    """Return pixel frames side by side as an image inside the page."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="frames" style="max-width:100%" src="data:image/png;base64,{data}">'
