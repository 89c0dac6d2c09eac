"""Speed of a quantized precision: denoising steps timed alternately with floating point at a full cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...bundle import FP16, FP32, INT8, Speed, Stage
from ...errors import NotFasterError
from ...runtime.session.loading import load
from ..progress import hide_progress
from .in_turn import PAIRS, STEPS, time_in_turn

if TYPE_CHECKING:
    from ...bundle import Bundle, Precision
    from ...profiler.report.report import Ratio
    from ...runtime.session.model import Model
    from ..progress import Show

__all__ = ["Judge", "measure_speed", "timed_against"]

_log = logging.getLogger("vdmrt")
# Work that a CPU does in well under a minute; more is timed only on request.
_QUICK_FLOPS = 2e12


@dataclass(frozen=True)
class Judge:
    """Judge that times new graphs and refuses those that are not shown to be faster than floating point.

    Attributes:
        threads: Threads of the CPU provider.
        accept_slower: Whether slower graphs are accepted.
        show: Shows the progress.
    """

    threads: int | None = None
    accept_slower: bool = False
    show: Show = hide_progress

    def measure(self, bundle: Bundle, precisions: Sequence[Precision], target: Path) -> tuple[Speed, ...]:
        """Time new precisions.

        Args:
            bundle: Temporary bundle with the new graphs.
            precisions: The new precisions.
            target: The bundle to which they are to be added.

        Raises:
            NotFasterError: One is not shown to be faster, and slower graphs are not accepted.
        """
        speeds = measure_speed(
            bundle, precisions, threads=self.threads, accept_slower=self.accept_slower, show=self.show
        )
        return self.decide(speeds, precisions, target)

    def decide(self, speeds: Sequence[Speed], precisions: Sequence[Precision], target: Path) -> tuple[Speed, ...]:
        """Return the speeds, or refuse the precisions; see :meth:`measure`."""
        slow = [one for one in speeds if not one.faster]
        if slow and not self.accept_slower:
            raise NotFasterError(
                f"{'; '.join(one.describe() for one in slow)}; {target} was not changed. To add "
                f"{', '.join(map(str, precisions))} all the same, for example for another machine, repeat the command "
                "with --accept-slower: the observed statistics are kept",
                speeds=speeds,
            )
        return tuple(speeds)


def timed_against(bundle: Bundle, precision: Precision) -> Precision | None:
    """Return the precision to time a quantized one against on a CPU; None where its products are not INT8 there.

    A CPU does not run FP8 products in 8 bits, and INT8 between FP16 is for TensorRT.
    """
    if precision.linears != INT8 or precision.around != FP32.around:
        return None
    return FP32 if FP32 in bundle.manifest.graphs else FP16


def measure_speed(
    bundle: Bundle,
    precisions: Sequence[Precision],
    *,
    threads: int | None = None,
    accept_slower: bool = False,
    show: Show = hide_progress,
) -> list[Speed]:
    """Time the precisions that run in INT8 on a CPU.

    Args:
        bundle: Bundle that contains the precisions.
        precisions: New precisions; those that are not INT8 are left out.
        threads: Threads of the CPU provider.
        accept_slower: Whether the user accepts slower graphs, for the record.
        show: Shows the progress.

    Raises:
        BundleError: The bundle is altered.
        BackendError: ONNX Runtime refuses a graph.
    """
    found: list[Speed] = []
    for precision in precisions:
        against = timed_against(bundle, precision)
        if against is None:
            continue
        denoise = bundle.manifest.graphs[precision][Stage.DENOISE]
        if 2 * PAIRS * STEPS * denoise.flops > _QUICK_FLOPS:
            _log.warning("%s was not timed, which would take minutes; vdmrt profile --against does it", precision)
            continue
        with (
            load(bundle.path, backend="onnxruntime", precision=precision, threads=threads, verify=False) as model,
            load(bundle.path, backend="onnxruntime", precision=against, threads=threads, verify=False) as other,
            show(f"timing {precision} against {against}, chunks") as on_progress,
        ):
            ratio = time_in_turn(model, other, on_progress=on_progress)
            found.append(_record(bundle, model, other, ratio, accept_slower))
    return found


def _record(bundle: Bundle, model: Model, other: Model, ratio: Ratio, accepted: bool) -> Speed:
    return Speed(
        precision=model.precision,
        against=other.precision,
        backend=model.describe(),
        ratio=ratio.ratio,
        low=ratio.interval.low,
        high=ratio.interval.high,
        pairs=PAIRS,
        accepted=accepted,
        graphs_sha256=bundle.manifest.graphs_sha256(model.precision),
    )
