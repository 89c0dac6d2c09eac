"""What a calibration made, in words and as what is kept of it in the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..bundle import Stage, encode, format_count

if TYPE_CHECKING:
    from ..bundle import Precision, Speed

__all__ = ["CalibrationSummary"]

# Paths and times: the same calibration gives the same bytes.
_NOT_KEPT = ("bundle", "speeds")


@dataclass(frozen=True)
class CalibrationSummary:
    """What was made.

    Attributes:
        bundle: The bundle's folder.
        precisions: Precisions that were added to it or replaced.
        quantized: Linears that are 8 bit, and all there are.
        kept: Groups that the budget keeps in floating point.
        migrated: Sites whose outlier channels went into the weights.
        data: The calibration set in one line.
        strata: How often each state was observed.
        statistics_nbytes: Memory of the statistics.
        rollouts: Whole rollouts that were observed.
        speeds: How fast they are beside floating point; empty where nothing was timed.
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
        """Describe it in a few lines."""
        of, all_ = self.quantized
        lines = [
            f"{self.bundle}: now has {', '.join(map(str, self.precisions))}",
            f"{of} of {all_} linears in 8 bits, outlier channels migrated at {len(self.migrated)} places",
            *([f"the budget keeps {', '.join(self.kept)} in floating point"] if self.kept else []),
            f"observed {self._runs(Stage.DENOISE)} denoising runs and {self._runs(Stage.FILL)} cache fills in "
            f"{format_count(self.rollouts, 'whole rollout')}, the fewest that have the --samples asked for, "
            f"of {self.data}",
            *(one.describe() for one in self.speeds),
        ]
        return "\n".join(lines)

    def to_report(self) -> dict[str, Any]:
        """Return what is kept in the bundle."""
        return {name: value for name, value in encode(self).items() if name not in _NOT_KEPT}

    def _runs(self, stage: str) -> int:
        return sum(count for name, count in self.strata.items() if name.startswith(stage))
