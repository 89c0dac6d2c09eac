"""Tables of a kernel report, as rows of text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .comparison import FIGURES

if TYPE_CHECKING:
    from .comparison import Difference
    from .report import KernelReport

__all__ = ["describe_blocks", "difference_rows", "figure_rows", "format_figure"]


def figure_rows(report: KernelReport) -> Iterator[tuple[str, ...]]:
    """Yield a row for each figure: its name, and its value in each stage."""
    stages = [stage.to_json() for stage in report.stages.values()]
    for figure, title in FIGURES.items():
        yield (title, *(format_figure(stage[figure]) for stage in stages))
    yield ("products by operands", *(_counts(stage["products"]) for stage in stages))
    if any(stage["quantized_weights"] for stage in stages):
        counts = (f"{stage['quantized_weights_in_8_bits']} of {stage['quantized_weights']}" for stage in stages)
        yield ("quantized weights multiplied in 8 bits", *counts)
    yield ("kinds", *(_counts(stage["kinds"]) for stage in stages))
    yield ("kernels by block", *(describe_blocks(stage) for stage in stages))
    if any(stage["opaque_layers"] for stage in stages):
        yield ("layers that hide their kernels", *(str(stage["opaque_layers"]) for stage in stages))


def difference_rows(differences: Sequence[Difference]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each figure of two reports that is not 0: stage, name, this, other, difference, ratio."""
    for one in differences:
        if not (one.this or one.other):
            continue
        ratio = "–" if one.ratio is None else f"{one.ratio:.3f}"
        change = f"{one.difference:+g}" if one.difference else "0"
        yield one.stage, FIGURES[one.figure], format_figure(one.this), format_figure(one.other), change, ratio


def describe_blocks(stage: Mapping[str, Any]) -> str:
    """Return the kernels of each block of a stage as JSON, such as ``0: 24, 1 to 5: 21, outside: 10``."""
    if stage["blocks"] is None:
        return "–"
    parts = []
    for kernels, blocks in itertools.groupby(stage["blocks"], key=lambda block: block["kernels"]):
        numbers = [block["block"] for block in blocks]
        which = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        parts.append(f"{which}: {kernels}")
    return ", ".join([*parts, f"outside: {stage['outside_blocks']['kernels']}"])


def format_figure(value: float) -> str:
    """Return a figure without needless digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}".rstrip("0").rstrip(".")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
