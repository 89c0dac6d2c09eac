"""Summary of a calibration, as text and as the report in the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..bundle import Stage, encode, format_count

if TYPE_CHECKING:
    from ..bundle import Precision, Speed

__all__ = ["CalibrationSummary"]

# Paths and times stay out of the report, so that the same calibration gives the same bytes.
_NOT_KEPT = ("bundle", "speeds")


@dataclass(frozen=True)
class CalibrationSummary:
    """Result of a calibration.

    Attributes:
        bundle: The bundle's folder.
        precisions: Precisions that were added to it or replaced.
        quantized: Number of 8 bit linears, and of all linears.
        kept: Groups that the budget keeps in floating point.
        migrated: Sites with outlier channels migrated into the weights.
        data: The calibration set in one line.
        strata: Number of observations of each state.
        statistics_nbytes: Size of the statistics in bytes.
        rollouts: Whole rollouts that were observed.
        speeds: Speeds relative to floating point; empty where nothing was timed.
    """

    bundle: str
    precisions: tuple[Precision, ...]
    quantized: tuple[int, int]
    kept: tuple[str, ...]
    migrated: tuple[str, ...]
    data: str
    strata: Mapping[str, int]
    statistics_nbytes: int
    rollouts: int
    speeds: tuple[Speed, ...] = ()

    def describe(self) -> str:
        """Return a summary in a few lines."""
        of, all_ = self.quantized
        lines = [
            f"{self.bundle}: now has {', '.join(map(str, self.precisions))}",
            f"{of} of {all_} linears in 8 bits, outlier channels migrated at {len(self.migrated)} places",
            *([f"the budget keeps {', '.join(self.kept)} in floating point"] if self.kept else []),
            f"observed {self._runs(Stage.DENOISE)} denoising runs and {self._runs(Stage.FILL)} cache fills in "
            f"{format_count(self.rollouts, 'whole rollout')}, the fewest with the requested --samples, "
            f"of {self.data}",
            *(one.describe() for one in self.speeds),
        ]
        return "\n".join(lines)

    def to_report(self) -> dict[str, Any]:
        """Return the report for the bundle."""
        return {name: value for name, value in encode(self).items() if name not in _NOT_KEPT}

    def _runs(self, stage: str) -> int:
        return sum(count for name, count in self.strata.items() if name.startswith(stage))
