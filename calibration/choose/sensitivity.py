"""Sensitivity of groups of layers to quantization, and those that stay in floating point for an error budget."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import FP32, Bundle, BundleWriter, Stage, link_or_copy
from ...errors import CalibrationError
from ...reporting import Series, draw_lines
from ...runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from ...runtime.session.model import Model
from ..graph.graph_file import WeightsFile
from ..graph.linears import find_linears
from ..graph.rendering import render
from ..publishing import with_weights, write_precision
from ..scratch import scratch_folder
from ..verify.comparison import given_frames
from ..verify.metrics import psnr

if TYPE_CHECKING:
    from ...bundle import EightBits, Graph
    from ..graph.graph_file import GraphFile
    from ..graph.quantization import Quantization
    from ..observe.data import CalibrationSet

__all__ = ["Bench", "Sensitivity", "estimate_speed", "fit_budget", "shares_of"]

_log = logging.getLogger("vdmrt")
Latents = npt.NDArray[np.float32]

_CHUNKS, _SEEDS = 3, (0, 1)
# Assumed speed-up of 8 bit products, that of the tensor cores of every GPU in use.
_GAIN = 2.0


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivities measured on short free-running rollouts against float32.

    Attributes:
        alone: PSNR in dB with only this group in 8 bits, the worst group first.
        share: Each group's part of the denoise graph's operations.
        curve: Variants that were tried: groups kept, PSNR in dB, estimated speed relative to floating point.
        kept: Groups that stay in floating point.
    """

    alone: Mapping[str, float]
    share: Mapping[str, float]
    curve: Sequence[tuple[int, float, float]]
    kept: tuple[str, ...]

    def to_svg(self) -> str:
        """Draw quality over estimated speed, a point for each number of groups kept."""
        curve = sorted(self.curve, key=lambda point: point[2])
        tried = ", ".join(f"{kept}" for kept, _, _ in curve)
        return draw_lines(
            [Series(f"groups kept in floating point, from the left: {tried}", "tone-a", [db for _, db, _ in curve])],
            x=[speed for _, _, speed in curve],
            title=f"PSNR in dB against float32, {len(self.alone)} groups of layers",
            x_title="estimated speed, times that of floating point",
            from_zero=False,
        ).to_svg()


def fit_budget(
    bundle: Bundle,
    graphs: Mapping[str, GraphFile],
    quantization: Quantization,
    data: CalibrationSet,
    budget: float,
    *,
    options: Mapping[str, Any] | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sensitivity:
    """Measure each group alone, then keep as few of the most sensitive groups as the budget needs.

    Args:
        bundle: Bundle with fp32 graphs.
        graphs: The same graphs, opened.
        quantization: Quantization of every group.
        data: Clips that rollouts continue from.
        budget: Least PSNR in dB against float32, over 3 free-running chunks.
        options: Further arguments of :meth:`Model.session`.
        threads: Threads of the CPU provider.
        on_progress: Called with the rollouts done and an estimate of their number.

    Raises:
        CalibrationError: The budget does not hold even with all groups but one in floating point.
    """
    groups = sorted({name.rpartition(".")[0] for name in quantization.linears})
    total, done = len(groups) + 2 + len(groups).bit_length(), 0
    with scratch_folder("sensitivity") as folder:
        bench = Bench(bundle, graphs, data, folder, options or {}, threads)

        def measure(tried: Quantization) -> float:
            nonlocal done
            found = bench.measure(tried)
            done += 1
            on_progress(done, total)
            return found

        alone = {group: measure(quantization.only([group])) for group in groups}
        ranked = sorted(groups, key=lambda group: (alone[group], group))
        share = shares_of(bundle, graphs[Stage.DENOISE], quantization.linears)
        curve: dict[int, float] = {}

        def holds(kept: int) -> bool:
            curve[kept] = measure(quantization.keeping(ranked[:kept]))
            _log.info("%d of %d groups kept: %.2f dB", kept, len(groups), curve[kept])
            return curve[kept] >= budget

        kept = _fewest(len(groups) - 1, holds)
        if kept is None:
            raise CalibrationError(
                f"--budget {budget:g} dB does not hold even with one group of {len(groups)} in 8 bits "
                f"({curve[len(groups) - 1]:.1f} dB); ask for less"
            )
    points = [(count, quality, estimate_speed(share, ranked[count:])) for count, quality in sorted(curve.items())]
    return Sensitivity({group: alone[group] for group in ranked}, share, points, tuple(ranked[:kept]))


def _fewest(most: int, holds: Callable[[int], bool]) -> int | None:
    """Return the least count for which ``holds``, assumed to hold for all larger ones; None where none does."""
    if holds(0):
        return 0
    if not holds(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def shares_of(bundle: Bundle, graph: GraphFile, linears: Container[str]) -> dict[str, float]:
    """Return each group's part of the denoise graph's operations, of its linears alone."""
    from ..graph.widening import infer_values

    shapes = {name: [one.dim_value for one in v.type.tensor_type.shape.dim] for name, v in infer_values(graph).items()}
    total = bundle.manifest.graphs[FP32][Stage.DENOISE].flops
    share: dict[str, float] = {}
    for linear in find_linears(graph):
        if linear.name in linears:
            flops = 2 * shapes[linear.source][0] * linear.inputs * linear.outputs
            share[linear.group] = share.get(linear.group, 0.0) + flops / total
    return share


def estimate_speed(share: Mapping[str, float], quantized: Iterable[str]) -> float:
    """Return the estimated speed of a step, relative to floating point, with some groups in 8 bits."""
    return 1 / (1 - (1 - 1 / _GAIN) * sum(share.get(group, 0.0) for group in quantized))


class Bench:
    """Bench that compares short rollouts of variants of a model with the same rollouts in float32."""

    def __init__(
        self,
        bundle: Bundle,
        graphs: Mapping[str, GraphFile],
        data: CalibrationSet,
        folder: Path,
        options: Mapping[str, Any],
        threads: int | None,
    ) -> None:
        self._bundle, self._graphs, self._options = bundle, graphs, options
        self._writer = BundleWriter(folder)
        (folder / "graphs").mkdir()
        # One file for all variants: weights that they share are stored once.
        self._weights = WeightsFile(folder / "graphs" / "weights.bin")
        self._backend = OnnxRuntimeBackend(threads=threads)
        with Model(bundle, self._backend, FP32) as model:
            self._given = given_frames(model, list(data.clips), _SEEDS)
            self._wanted = self._roll(model)

    def measure(self, quantization: Quantization) -> float:
        """Return the PSNR of a quantization in dB."""
        rendered = {stage: self._render(graph, stage, quantization) for stage, graph in self._graphs.items()}
        return self.measure_graphs(rendered, quantization.format)

    def measure_graphs(self, rendered: Mapping[str, GraphFile], quantized: EightBits | None) -> float:
        """Return the PSNR in dB of other graphs with the same inputs and outputs."""
        variant = self._write(rendered, quantized)
        with Model(variant, self._backend, FP32) as model:
            made = self._roll(model)
        return psnr(made, self._wanted, float(np.ptp(self._wanted)))

    def _roll(self, model: Model) -> Latents:
        rollouts = []
        for seed, first in zip(_SEEDS, self._given, strict=True):
            with model.session(seed=seed, **self._options) as session:
                session.start(first)
                rollouts.append(np.stack([chunk.latents for chunk in session.stream(_CHUNKS)]))
        return np.stack(rollouts)

    def _write(self, rendered: Mapping[str, GraphFile], quantized: EightBits | None) -> Bundle:
        known = self._bundle.manifest.graphs[FP32]
        sources: dict[str, tuple[Graph, GraphFile]] = {s: (known[s], graph) for s, graph in self._graphs.items()}
        graphs = write_precision(self._writer, "variant", rendered, sources, self._weights, quantized)
        graphs = with_weights(graphs, self._writer.record("graphs/weights.bin"))
        manifest = dataclasses.replace(self._bundle.manifest, graphs={FP32: graphs}, components={}, codec=None)
        if manifest.null_text is not None:
            link_or_copy(self._bundle.locate(manifest.null_text), self._writer.path / manifest.null_text.file)
        return Bundle(self._writer.path.resolve(), manifest)

    @staticmethod
    def _render(graph: GraphFile, stage: str, quantization: Quantization) -> GraphFile:
        """Render a graph with the quantized linears that it contains, possibly none."""
        names = {linear.name for linear in find_linears(graph)} & set(quantization.linears)
        own = {name: one for name, one in quantization.linears.items() if name in names}
        return render(graph, stage, dataclasses.replace(quantization, linears=own))
