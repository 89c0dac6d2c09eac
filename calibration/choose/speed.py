"""Whether a quantized precision is faster than floating point: a denoising step of both, in turn, at a full cache."""

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
# What a CPU does in well under a minute; beyond it the user asks for the time that it takes.
_QUICK_FLOPS = 2e12


@dataclass(frozen=True)
class Judge:
    """Times new graphs and refuses those that are not shown to be faster than floating point.

    Attributes:
        threads: Of the CPU provider.
        accept_slower: Whether it takes them however slow they are.
        show: Shows the progress.
    """

    threads: int | None = None
    accept_slower: bool = False
    show: Show = hide_progress

    def measure(self, bundle: Bundle, precisions: Sequence[Precision], target: Path) -> tuple[Speed, ...]:
        """Return how fast new precisions are.

        Args:
            bundle: With the new graphs, not yet in its place.
            precisions: The new ones.
            target: The bundle that is to get them.

        Raises:
            NotFasterError: One is not shown to be faster, and that is not accepted.
        """
        speeds = measure_speed(
            bundle, precisions, threads=self.threads, accept_slower=self.accept_slower, show=self.show
        )
        return self.decide(speeds, precisions, target)

    def decide(self, speeds: Sequence[Speed], precisions: Sequence[Precision], target: Path) -> tuple[Speed, ...]:
        """Return the speeds, or refuse what they are of; see :meth:`measure`."""
        slow = [one for one in speeds if not one.faster]
        if slow and not self.accept_slower:
            raise NotFasterError(
                f"{'; '.join(one.describe() for one in slow)}; {target} was not changed. To add "
                f"{', '.join(map(str, precisions))} all the same, as for another machine, repeat the command with "
                "--accept-slower: what was observed is kept",
                speeds=speeds,
            )
        return tuple(speeds)


def timed_against(bundle: Bundle, precision: Precision) -> Precision | None:
    """Return the precision that a quantized one must beat on a CPU; None where its products are not INT8 there.

    FP8 products are not run in 8 bits by a CPU, and what has FP16 around INT8 products is for TensorRT.
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
    """Time what runs in INT8 on a CPU.

    Args:
        bundle: With the precisions.
        precisions: Those that were made; others than INT8 ones are left out.
        threads: Of the CPU provider.
        accept_slower: What the record says of the user's will.
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
