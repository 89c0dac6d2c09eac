"""Two kernel reports side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import EngineError

__all__ = ["FIGURES", "Difference", "compare_reports", "encode_differences"]

# Figures of a stage, by their name in JSON.
FIGURES = {
    "kernels": "kernels",
    "fused_attentions": "fused attentions",
    "softmaxes_outside": "softmaxes outside an attention",
    "moved_mb": "moved, MB",
    "moved_by_kernels_that_compute_nothing_mb": "outside products and attentions, MB",
    "cache_read_by_copies_mb": "of the cache read there, MB",
    "most_copies_of_a_cached_tensor": "most copies of a cached tensor",
    "gflop": "GFLOP",
    "roofline_ms": "roofline, ms",
    "roofline_of_kernels_that_compute_ms": "roofline of kernels that compute, ms",
    "products_in_8_bits": "products in 8 bits",
    "build_s": "built in, s",
    "plan_mb": "plan, MB",
}


@dataclass(frozen=True)
class Difference:
    """A figure of two reports.

    Attributes:
        stage: The stage.
        figure: Key of :data:`FIGURES`.
        this: Its value.
        other: Its value in the other report.
    """

    stage: str
    figure: str
    this: float
    other: float

    @property
    def difference(self) -> float:
        """This minus the other."""
        return round(self.this - self.other, 3)

    @property
    def ratio(self) -> float | None:
        """This over the other; None where the other is 0."""
        return self.this / self.other if self.other else None


def compare_reports(this: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return the figures of the stages that both reports have.

    Args:
        this: A report as JSON.
        other: Another one; figures that it lacks are left out.

    Raises:
        EngineError: They have no stage in common.
    """
    found = tuple(_compare_stages(this["stages"], other["stages"]))
    if not found:
        raise EngineError(
            f"{other['engine']} cannot be compared with {this['engine']}: wanted one of {', '.join(this['stages'])}, "
            f"it has {', '.join(other['stages']) or 'no stages'}"
        )
    return found


def encode_differences(differences: Iterable[Difference]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return differences by stage and figure, ready for JSON."""
    document: dict[str, dict[str, dict[str, float | None]]] = {}
    for one in differences:
        values = {"this": one.this, "other": one.other, "difference": one.difference, "ratio": one.ratio}
        document.setdefault(one.stage, {})[one.figure] = values
    return document


def _compare_stages(this: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Difference]:
    for stage, figures in this.items():
        others = other.get(stage, {})
        for figure in FIGURES:
            value = others.get(figure)
            if isinstance(value, int | float):
                yield Difference(stage, figure, figures[figure], value)
